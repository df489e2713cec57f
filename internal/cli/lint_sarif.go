package cli

import (
	"io"
	"net/url"
	"path/filepath"
	"strings"

	"espalier/internal/xfrmstat"
	"espalier/lint"
)

// What of SARIF 2.1.0 (OASIS, sarif-schema-2.1.0.json) findings need.
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		Results    []sarifResult `json:"results"`
		ColumnKind string        `json:"columnKind"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name  string      `json:"name"`
		Rules []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string       `json:"id"`
		Short   sarifMessage `json:"shortDescription"`
		Full    sarifMessage `json:"fullDescription"`
		Help    sarifMessage `json:"help"`
		Default sarifLevel   `json:"defaultConfiguration"`
	}
	sarifLevel struct {
		Level string `json:"level"`
	}
	sarifMessage struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string          `json:"ruleId"`
		RuleIndex int             `json:"ruleIndex"`
		Level     string          `json:"level"`
		Message   sarifMessage    `json:"message"`
		Locations []sarifLocation `json:"locations"`
		Related   []sarifLocation `json:"relatedLocations,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   sarifRegion   `json:"region"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine int `json:"startLine"`
	}
)

// writeSARIF writes findings for code scanners. All kinds are among the rules, found or not.
func writeSARIF(w io.Writer, findings []lint.Finding) error {
	run := sarifRun{Tool: sarifTool{sarifDriver{Name: "espalier"}}, Results: []sarifResult{}, ColumnKind: "utf16CodeUnits"}
	index := map[lint.ID]int{}
	for i, k := range lint.Kinds {
		index[k.ID] = i
		help := k.Fix
		for _, name := range k.Counters {
			if c, known := xfrmstat.Find(name); known {
				help += " " + name + ": " + c.Meaning
			}
		}
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{string(k.ID), sarifMessage{k.Title}, sarifMessage{k.Title + " " + k.Happens},
			sarifMessage{help}, sarifLevel{string(k.Severity)}})
	}
	for _, f := range findings {
		text := f.About + ": " + f.Text
		if f.Counter != "" && !strings.Contains(f.Text, f.Counter) {
			text += " (" + f.Counter + ")"
		}
		result := sarifResult{RuleID: string(f.ID), RuleIndex: index[f.ID], Level: string(f.Severity), Message: sarifMessage{text + ". To do: " + f.Fix + "."},
			Locations: []sarifLocation{sarifAt(f.Place)}}
		for _, p := range f.Also {
			result.Related = append(result.Related, sarifAt(p))
		}
		run.Results = append(run.Results, result)
	}
	return writeJSON(w, sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}})
}

func sarifAt(p lint.Place) sarifLocation {
	uri := url.URL{Path: filepath.ToSlash(p.File)}
	if filepath.IsAbs(p.File) {
		uri.Scheme = "file"
	}
	return sarifLocation{sarifPhysical{sarifArtifact{uri.String()}, sarifRegion{p.Line}}}
}
