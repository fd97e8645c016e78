"""What comes out of an upsampling: on which grid, with which files and pages."""
