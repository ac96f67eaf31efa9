package docs_test

import (
	"regexp"
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

// TestFindingsSayWhatToDo: the last cell of each row has a part that tells its reader to do something, or that nothing is to be done.
func TestFindingsSayWhatToDo(t *testing.T) {
	todo := regexp.MustCompile("(?i)(?:^|[.:;,] )(?:(?:or|then) )?(?:(?:nothing|add|apply|ask|check|choose|compare|correct|delete|do|free|give|look|make|move|name|put|rename|report|restart|run|save|see|set|take|upgrade)\\b|`plan --held`)")
	for code, f := range docs.Findings() {
		if !todo.MatchString(f.Do) {
			t.Errorf("%s: nobody knows what to do by %q", code, f.Do)
		}
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
