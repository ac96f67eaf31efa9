package gitlabversion_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		"15.0.0": "15.0", "17.4.2-ee": "17.4", "18.0.0-pre": "18.0", "19.1": "19.1", "9.5.10": "9.5", "16.2+custom": "16.2",
		"": "", "v17.1.0": "", "17": "", "seventeen.one": "", "17.4x": "", "17.99999.1": "", " 17.1": "", "-1.2": "",
	} {
		v, ok := gitlabversion.Parse(text)
		if ok != (want != "") || ok && v.String() != want {
			t.Errorf("%q: %v, %v; want %q", text, v, ok, want)
		}
	}
}

func TestHas(t *testing.T) {
	for _, tt := range []struct {
		version string
		want    bool
	}{{"15.0.0", false}, {"16.1.9", false}, {"16.2.0", true}, {"16.10.0", true}, {"9.9.0", false}, {"100.0.0", true}, {"unknown", true}} {
		v, _ := gitlabversion.Parse(tt.version)
		if got := v.Has(gitlabversion.VariableDescription); got != tt.want {
			t.Errorf("%s has descriptions of variables: %v", tt.version, got)
		}
	}
}

// TestTable: complete, in order, and every line is in the docs as it is here.
func TestTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/gitlab-versions.md")
	if err != nil {
		t.Fatal(err)
	}
	table := gitlabversion.Table()
	if len(table) != int(gitlabversion.HookSigning)+1 {
		t.Fatalf("%d lines", len(table))
	}
	last := gitlabversion.Oldest
	var lines []string
	for i, e := range table {
		if e.Since.Before(last) || e.What == "" || e.Without == "" {
			t.Errorf("line %d: %+v", i, e)
		}
		last = e.Since
		lines = append(lines, fmt.Sprintf("| %s | %s | %s |", e.Since, e.What, e.Without))
	}
	if want := strings.Join(lines, "\n"); !strings.Contains(string(page), want) {
		t.Errorf("docs/gitlab-versions.md lacks this table:\n%s", want)
	}
	if !strings.Contains(string(page), "GitLab "+gitlabversion.Oldest.String()) {
		t.Errorf("docs/gitlab-versions.md does not say that GitLab %s is the oldest", gitlabversion.Oldest)
	}
}
