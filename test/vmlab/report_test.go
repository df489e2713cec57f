package vmlab

import (
	"reflect"
	"testing"
)

const mark = "\x16" // of the test framework's own lines, by -test.v=test2json

func TestParse(t *testing.T) {
	text := mark + "=== RUN   TestA\n" +
		mark + "=== RUN   TestA/one\n" +
		"    a_test.go:1: said\n" +
		"vmlab: outcome\tsection\tcase\tresult\n" +
		mark + "=== RUN   TestA/two\n" +
		mark + "--- FAIL: TestA (1.50s)\n" +
		mark + "    --- FAIL: TestA/one (1.25s)\n" +
		mark + "    --- SKIP: TestA/two (0.00s)\n" +
		mark + "=== RUN   TestB\n"
	r, err := parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if r.exit != -1 {
		t.Errorf("exit code %d of what did not end", r.exit)
	}
	type seen struct{ action, output string }
	got := make(map[string]seen)
	for name, x := range r.byName {
		got[name] = seen{x.action, x.output.String()}
	}
	want := map[string]seen{
		"TestA":     {"fail", ""},
		"TestA/one": {"fail", "    a_test.go:1: said\n"},
		"TestA/two": {"skip", ""},
		"TestB":     {"", ""},
	}
	// test2json ends what was under way when its input ended.
	if b := got["TestB"]; b.action == "fail" {
		want["TestB"] = b
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
	if len(r.tests) != 2 || len(r.tests[0].children) != 2 {
		t.Errorf("%d tests, want TestA with two parts and TestB", len(r.tests))
	}
	if want := []Outcome{{"section", "case", "result"}}; !reflect.DeepEqual(r.outcomes, want) {
		t.Errorf("outcomes %v, want %v", r.outcomes, want)
	}
	if r, err := parse([]byte(text + "\nvmlab: exit 1\n")); err != nil || r.exit != 1 {
		t.Errorf("exit code %d, %v; want 1", r.exit, err)
	}
}

func TestCompatibility(t *testing.T) {
	c := compatibility{doc: Compatibility}
	c.set("6.12", []Outcome{{"S", "a", "yes"}, {"S", "b", "yes"}, {"T", "c", "no"}})
	c.set("6.1", []Outcome{{"S", "a", "no"}, {"T", "d", "no"}, {"S", "e", "no"}})
	c.set("6.12", []Outcome{{"S", "a", "refused: why"}, {"T", "c", "no"}})
	want := compatibilityPreamble + `
## S

| case | 6.1 | 6.12 |
| --- | --- | --- |
| a | no | refused: why |
| e | no | – |

## T

| case | 6.1 | 6.12 |
| --- | --- | --- |
| c | – | no |
| d | no | – |
`
	if got := c.text(); got != want {
		t.Errorf("written:\n%s\nwant:\n%s", got, want)
	}
	again := compatibility{doc: Compatibility}
	again.read(want)
	if got := again.text(); got != want {
		t.Errorf("read and written:\n%s\nwant:\n%s", got, want)
	}
}

func TestVersions(t *testing.T) {
	for version, want := range map[string]string{"6.12.117+deb12": "6.12", "6.1.0-56": "6.1", "6.12": "6.12"} {
		if got := series(version); got != want {
			t.Errorf("series of %s is %s, want %s", version, got, want)
		}
	}
	if !reflect.DeepEqual(numbers("6.1.0-56"), []int{6, 1, 0, 56}) {
		t.Error(numbers("6.1.0-56"))
	}
}
