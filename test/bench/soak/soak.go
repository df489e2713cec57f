// Package soak
package soak

import "espalier/test/bench/report"

func Run(o report.Options) ([]report.Result, error) { return nil, nil }
