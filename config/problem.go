package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Position is a place in a file. Line and column count from 1; zeros are no place in particular.
type Position struct{ Line, Column int }

// Problem is one thing to change in a file.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`
	Column  int    `json:"column"`
	What    string `json:"what"`              // is wrong
	Instead string `json:"instead,omitempty"` // what to write
}

// ProblemAt makes a problem at a place that [Tunnel.Place] or [Host.Place] has told.
func ProblemAt(file string, at Position, what, instead string) Problem {
	return Problem{File: file, Line: at.Line, Column: at.Column, What: what, Instead: instead}
}

// Error is file:line:col: what is wrong: what to write instead.
func (p Problem) Error() string {
	text := p.What
	if p.Instead != "" {
		text += ": " + p.Instead
	}
	if p.Line == 0 {
		return fmt.Sprintf("%s: %s", p.File, text)
	}
	return fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, text)
}

// Problems is all that is wrong with a file, in its order. As an error it is one line each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// sorted is in the order of the file, always the same, without what was found twice: a default that is wrong is so
// in every tunnel.
func (ps Problems) sorted() Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), cmp.Compare(a.What, b.What))
	})
	told := map[Problem]bool{}
	return slices.DeleteFunc(ps, func(p Problem) bool {
		again := told[p]
		told[p] = true
		return again
	})
}
