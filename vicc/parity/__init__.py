"""vicc against numbers of the published implementation: which function, how far apart, within which bound."""
