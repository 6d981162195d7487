# What Slicer does here (configuration file, package) is not needed for the test.
