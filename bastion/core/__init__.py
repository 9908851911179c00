"""What is decided: values and functions of values. No I/O, no clock, no await."""
