package docs_test

import (
	"strings"
	"testing"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/docs"
)

// TestFindingsForPeople: what the program shows of the tables is all of them, and plain.
func TestFindingsForPeople(t *testing.T) {
	all := docs.Findings()
	if len(all) < 50 {
		t.Errorf("only %d findings", len(all))
	}
	for code, f := range all {
		if f.Do == "" || (f.Says == "") != strings.HasPrefix(code, "ci_") {
			t.Errorf("%s: %+v", code, f)
		}
		if strings.Contains(f.Says+f.Do, "](") || strings.Count(f.Do, "`")%2 != 0 {
			t.Errorf("%s is not plain: %+v", code, f)
		}
	}
	if got := all["held"].Do; got != "`plan --held`, then `approve`: see what is held back (docs/held.md)" {
		t.Errorf("held: %q", got)
	}
	if all["approvals_unreadable"] != all["approvals_unwritable"] {
		t.Error("two codes of one row differ")
	}
}

// TestJobsForPeople: the jobs that the page for people shows are there, and name an image.
func TestJobsForPeople(t *testing.T) {
	for _, name := range []string{"deploy", "deploy-with-id-token", "deploy-in-context"} {
		if job := docs.Job(name); !strings.HasPrefix(job, name+":\n") || !strings.Contains(job, "\n  image: ") {
			t.Errorf("%s: %q", name, job)
		}
	}
	if job := docs.Job("nothing"); job != "" {
		t.Errorf("nothing: %q", job)
	}
}
