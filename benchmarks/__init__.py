"""What taxomix reaches on a given machine, beside the limits of the libraries below it and beside other ways to do the same."""
