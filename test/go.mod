module espalier/test

go 1.26.4
