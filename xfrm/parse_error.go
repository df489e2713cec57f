package xfrm

import (
	"fmt"
	"strings"
)

// SyntaxError is a command that is not in the grammar. It never carries key material: for
// a bad key Word is empty.
type SyntaxError struct {
	Word     string   // the word at fault
	Index    int      // its place among the words given, from 0
	Context  string   // how far the command was understood, such as "state add"
	Problem  string   // what is wrong with the word
	Expected []string // what could stand there, if that is a closed list
}

func (e *SyntaxError) Error() string {
	var b strings.Builder
	if e.Context != "" {
		b.WriteString(e.Context + ": ")
	}
	if e.Word != "" {
		fmt.Fprintf(&b, "%q ", e.Word)
	}
	b.WriteString(e.Problem)
	if near := nearest(e.Word, e.Expected); near != "" {
		fmt.Fprintf(&b, "; did you mean %q?", near)
	} else if len(e.Expected) > 0 {
		b.WriteString("; expected " + orList(e.Expected))
	}
	return b.String()
}

// SemanticError is a command whose words are all in the grammar but do not make sense
// together.
type SemanticError struct {
	Context string
	Problem string
}

func (e *SemanticError) Error() string { return e.Context + ": " + e.Problem }

func orList(words []string) string {
	if len(words) == 1 {
		return words[0]
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

// nearest is the candidate a typing error away from word, or "".
func nearest(word string, candidates []string) string {
	allowed := 2
	if len(word) <= 4 {
		allowed = 1
	}
	if len(word) > 32 { // no keyword is that long, and a key must not be measured
		return ""
	}
	best := ""
	for _, c := range candidates {
		if d := editDistance(word, c); d <= allowed && d < len(c) {
			best, allowed = c, d-1
		}
	}
	return best
}

// editDistance counts insertions, deletions, replacements and swaps of neighbours.
func editDistance(a, b string) int {
	beforeLast, last := []int(nil), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := range len(a) {
		row := make([]int, len(b)+1)
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(last[j+1]+1, row[j]+1, last[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], beforeLast[j-1]+1)
			}
		}
		beforeLast, last = last, row
	}
	return last[len(b)]
}
