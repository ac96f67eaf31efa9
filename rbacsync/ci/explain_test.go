package ci_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// explaining is a project whose jobs without credentials are told why.
func explaining(mode rbacsync.Delivery) ci.Namespace {
	n := project("haw-world", 42, mode)
	n.Projects[0].Explain = true
	return n
}

// why runs the plug-in of an explaining KUBECONFIG in a job with these variables, and returns what the job log has.
func why(t *testing.T, shell, kubeconfig string, env ...string) string {
	t.Helper()
	config, err := clientcmd.Load([]byte(kubeconfig))
	if err != nil {
		t.Fatal(err)
	}
	e := config.AuthInfos[config.Contexts[config.CurrentContext].AuthInfo].Exec
	args := e.Args
	if shell == "busybox" {
		args = append([]string{"sh"}, args...)
	}
	cmd := exec.CommandContext(t.Context(), shell, args...)
	cmd.Dir, cmd.Env = t.TempDir(), append([]string{"PATH=/nowhere"}, env...)
	var out, complaint bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaint
	if err := cmd.Run(); err == nil || out.Len() > 0 || e.Command != "sh" {
		t.Errorf("%s: %v, prints %q", shell, err, out.String())
	}
	if files, _ := filepath.Glob(filepath.Join(cmd.Dir, "*")); len(files) > 0 {
		t.Errorf("%s with %q ran something: %v", shell, env, files)
	}
	return complaint.String()
}

// shells are the POSIX shells of this machine.
func shells(t *testing.T) (out []string) {
	t.Helper()
	for _, shell := range []string{"sh", "dash", "bash", "busybox", "ksh", "yash"} {
		if path, err := exec.LookPath(shell); err == nil {
			out = append(out, path)
		}
	}
	if len(out) == 0 {
		t.Fatal("no shell on this machine")
	}
	return out
}

// TestAJobIsToldWhatItLacks: all of it at once, in every shell there is.
func TestAJobIsToldWhatItLacks(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Name = "icc.example.com"
	open := explaining(rbacsync.DeliverVariables)
	open.Name, open.Source.ID, open.Projects[0].ID, open.Projects[0].Unprotected = "open", 43, 43, true
	tokens := explaining(rbacsync.DeliverIDToken)
	tokens.Name, tokens.Source.ID, tokens.Projects[0].ID = "tokens", 44, 44
	if r := b.pass(t, explaining(rbacsync.DeliverVariables), open, tokens); len(r.Findings) > 0 {
		t.Fatal(r.Findings)
	}
	const job, right = "CI_JOB_ID=1", "CI_ENVIRONMENT_NAME=ICC-K8s"
	for _, shell := range shells(t) {
		for _, c := range []struct {
			project int64
			env     []string
			want    []string
		}{
			{42, []string{job, "CI_ENVIRONMENT_NAME=icc-k8s", "CI_COMMIT_REF_PROTECTED=true"}, []string{`its environment is "icc-k8s", and for this cluster it must be "ICC-K8s" (case counts). If "icc-k8s" is the environment of another cluster, no credentials came from there either: ask the administrators of that cluster`}},
			{42, []string{job, right, "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_NAME=feature"}, []string{`branch "feature" is not protected (Settings > Repository > Protected branches)`}},
			{42, []string{job, right, "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_NAME=v1", "CI_COMMIT_TAG=v1"}, []string{`tag "v1" is not protected (Settings > Repository > Protected tags)`}},
			{
				42,
				[]string{job, right, "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_NAME=x", "CI_PIPELINE_SOURCE=merge_request_event"},
				[]string{`the pipeline of a merge request (branch "x") has none: deploy from a protected branch`},
			},
			{
				42,
				[]string{job, "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_NAME=feature"},
				[]string{"it has no environment, and needs environment: {name: ICC-K8s}", `branch "feature" is not protected (Settings > Repository > Protected branches)`},
			},
			{42, []string{job, right, "CI_COMMIT_REF_PROTECTED=true"}, []string{"its environment and its branch are right, and nothing was delivered yet: run it again in a minute, then ask the administrators of the cluster"}},
			{42, []string{right}, []string{"this is not a job of GitLab CI"}},
			{43, []string{job, "CI_ENVIRONMENT_NAME=staging", "CI_COMMIT_REF_PROTECTED=false", "CI_COMMIT_REF_NAME=x"}, []string{`its environment is "staging", and for this cluster it must be "ICC-K8s" (case counts). If "staging" is the environment of another cluster, no credentials came from there either: ask the administrators of that cluster`}},
			{44, []string{job, right, "CI_COMMIT_REF_PROTECTED=true"}, []string{"it has no ID token, and needs id_tokens: KUBE_ID_TOKEN: aud: https://k8s.example.com"}},
			{44, []string{job, "CI_COMMIT_REF_PROTECTED=true", "KUBE_ID_TOKEN=x"}, []string{"it has no environment, and needs environment: {name: ICC-K8s}"}},
		} {
			want := "This job has no credentials for the cluster icc.example.com:\n  - " + strings.Join(c.want, "\n  - ") + "\n"
			if said := why(t, shell, b.gitlab.got[c.project]["*"]["KUBECONFIG"].Value, c.env...); said != want {
				t.Errorf("%s, project %d, %q says\n%s, want\n%s", shell, c.project, c.env, said, want)
			}
		}
	}
}

// TestWhatPeopleChooseIsShownAndNothingElse: names of environments and branches are run by no shell, and don't control a terminal.
func TestWhatPeopleChooseIsShownAndNothingElse(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.Scope = `it's "ours" $(touch x) \x1b` + "`touch y`"
	b.Name = `$(touch z)'`
	b.pass(t, explaining(rbacsync.DeliverVariables))
	plain := regexp.MustCompile(`^[ -~\n]*$`)
	for _, shell := range shells(t) {
		for value, want := range map[string]string{
			"$(touch x)":                      `is "$(touch x)", and for this cluster it must be "` + b.Scope + `"`,
			"`touch x`; touch y && touch z":   "`touch x`; touch y",
			`"; touch x; "`:                   `is ""; touch x; "", and`,
			"'\"\\$IFS*?[a-z]":                `is "'"\$IFS*?[a-z]", and`,
			"a\x1b[31mred\r\nsection_end:1:x": `is "a?[31mred??section_end:1:x", and`,
			"%s%n%d\\n\\033[0m":               `is "%s%n%d\n\033[0m", and`,
			strings.Repeat("a", 5000):         `is "` + strings.Repeat("a", 100) + `...", and`,
			"-n":                              `is "-n", and`,
			"\u202egnp.exe":                   "gnp.exe",
		} {
			said := why(t, shell, b.gitlab.got[42]["*"]["KUBECONFIG"].Value, "CI_JOB_ID=1", "CI_COMMIT_REF_PROTECTED=false", "CI_ENVIRONMENT_NAME="+value, "CI_COMMIT_REF_NAME="+value)
			if !strings.Contains(said, want) || !plain.MatchString(said) || len(said) > 2000 {
				t.Errorf("%s: %q is shown as\n%q\nwant %q", shell, value, said, want)
			}
		}
	}
}

// TestExplanationsComeAndGo: by the setting, by delivery, and with the project; never while it is not known what holds.
func TestExplanationsComeAndGo(t *testing.T) {
	t.Parallel()
	const has, not = "KUBECONFIG", ""
	off := project("haw-world", 42, rbacsync.DeliverVariables)
	undecided := off
	undecided.Undecided = true
	gone := ci.Namespace{Name: "haw-world", Source: off.Source, Account: "sa-1", Gone: true, Exists: true}
	for name, next := range map[string]struct {
		n    ci.Namespace
		want string
	}{
		"stays":              {explaining(rbacsync.DeliverVariables), has},
		"switched off":       {off, not},
		"undecided":          {undecided, has},
		"to id-token":        {explaining(rbacsync.DeliverIDToken), has},
		"to agent":           {explaining(rbacsync.DeliverAgent), not},
		"to certificate":     {explaining(rbacsync.DeliverCertificate), not},
		"to none":            {explaining(rbacsync.DeliverNone), not},
		"left out":           {gone, not},
		"an older GitLab":    {explaining(rbacsync.DeliverVariables), not},
		"another name of it": {explaining(rbacsync.DeliverVariables), has},
	} {
		for _, read := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", read"}[read], func(t *testing.T) {
				t.Parallel()
				b := newBench(t)
				b.pass(t, explaining(rbacsync.DeliverVariables))
				v := b.gitlab.got[42]["*"][has]
				if b.gitlab.keys(42, "*") != has || !v.File || v.Masked || v.Protected || strings.Contains(v.Value, b.token(42)) {
					t.Fatalf("the project has %q: %+v", b.gitlab.keys(42, "*"), v)
				}
				b.now = b.now.Add(10 * time.Minute)
				b.restart()
				calls := b.gitlab.calls
				switch name {
				case "an older GitLab":
					b.Expands = func(context.Context) (bool, error) { return true, nil }
				case "another name of it":
					b.Name = "lab"
				}
				n := next.n
				if read && !n.Gone {
					n = b.read(n)
				}
				before := b.gitlab.got[42]["*"][has]
				r := b.pass(t, n)
				if len(r.Findings) > 0 || b.gitlab.keys(42, "*") != next.want {
					t.Errorf("the project has %q, want %q; findings %v", b.gitlab.keys(42, "*"), next.want, r.Findings)
				}
				if name == "stays" && b.gitlab.calls != calls {
					t.Errorf("%d requests although nothing changed", b.gitlab.calls-calls)
				}
				if name == "another name of it" && b.gitlab.got[42]["*"][has] == before {
					t.Error("the explanation has the old name")
				}
				b.now = b.now.Add(10 * time.Minute)
				calls = b.gitlab.calls + len(b.gitlab.removed)
				b.restart()
				if b.pass(t, next.n); name != "an older GitLab" && name != "another name of it" && b.gitlab.calls+len(b.gitlab.removed) != calls {
					t.Errorf("%d requests the next time", b.gitlab.calls+len(b.gitlab.removed)-calls)
				}
			})
		}
	}
}

// TestAnExplanationHidesNoCredentials: it is gone before GitLab's cluster integration counts alone, also if GitLab refuses at first.
func TestAnExplanationHidesNoCredentials(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.pass(t, explaining(rbacsync.DeliverVariables))
	b.now = b.now.Add(10 * time.Minute)
	b.Variables = stubborn{b.gitlab}
	expect(t, b.pass(t, explaining(rbacsync.DeliverCertificate)), 0, 0, "ci_delivery_failed")
	if b.gitlab.keys(42, "*") == "" || b.gitlab.keys(42, "ICC-K8s") != allKeys || b.clusters.got[42] == "" {
		t.Errorf("jobs have %q and %q, integration %t: one hides the other", b.gitlab.keys(42, "*"), b.gitlab.keys(42, "ICC-K8s"), b.clusters.got[42] != "")
	}
	b.Variables = b.gitlab
	b.gitlab.removing = func() {
		if b.gitlab.keys(42, "*") != "" && b.gitlab.keys(42, "ICC-K8s") != allKeys {
			t.Error("the credentials go before what explains their absence")
		}
	}
	b.now = b.now.Add(10 * time.Minute)
	b.pass(t, explaining(rbacsync.DeliverCertificate))
	if b.gitlab.keys(42, "*") != "" || b.gitlab.keys(42, "ICC-K8s") != "" {
		t.Errorf("left: %q, %q", b.gitlab.keys(42, "*"), b.gitlab.keys(42, "ICC-K8s"))
	}
}

// stubborn does not let go of what explains.
type stubborn struct{ *variables }

func (s stubborn) Remove(ctx context.Context, project int64, scope string, keep []string, claim ci.Claim) (int, error) {
	if scope == "*" {
		return 0, errors.New("503")
	}
	return s.variables.Remove(ctx, project, scope, keep, claim)
}

// TestAKubeconfigOfTheirOwnStays: and is no finding, for jobs get what the project has chosen; a day later it is tried again.
func TestAKubeconfigOfTheirOwnStays(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	theirs := owned{b.gitlab, new(bool)}
	*theirs.there = true
	b.Variables = theirs
	n := explaining(rbacsync.DeliverVariables)
	expect(t, b.pass(t, n), 1, 1)
	calls := b.gitlab.calls
	for range 3 {
		b.now = b.now.Add(time.Hour)
		b.restart()
		b.Variables = theirs
		expect(t, b.pass(t, b.read(n)), 0, 0)
	}
	if b.gitlab.calls != calls || b.gitlab.keys(42, "*") != "" {
		t.Errorf("%d requests, has %q", b.gitlab.calls-calls, b.gitlab.keys(42, "*"))
	}
	*theirs.there = false
	b.now = b.now.Add(24 * time.Hour)
	b.pass(t, b.read(n))
	if b.gitlab.keys(42, "*") != "KUBECONFIG" {
		t.Error("the project made room, and gets nothing")
	}
	// They delete ours: it is written again.
	delete(b.gitlab.got[42]["*"], "KUBECONFIG")
	b.now = b.now.Add(10 * time.Minute)
	b.pass(t, b.read(n))
	if b.gitlab.keys(42, "*") != "KUBECONFIG" {
		t.Error("a deleted explanation does not come back")
	}
}

// owned is a project with a KUBECONFIG of its own for all environments.
type owned struct {
	*variables
	there *bool
}

func (o owned) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	if scope == "*" && *o.there {
		o.calls++
		return 0, &ci.ForeignError{Project: project, Scope: scope, Keys: []string{"KUBECONFIG"}}
	}
	return o.variables.Ensure(ctx, project, scope, vars, known, claim)
}

// TestAProjectThatMovesKeepsItsExplanation: what its former namespace takes back is not what it was given in the new one.
func TestAProjectThatMovesKeepsItsExplanation(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	shared := haw
	shared.Read = start.Add(-time.Minute)
	shared.Projects = explaining(rbacsync.DeliverVariables).Projects
	own := explaining(rbacsync.DeliverVariables)
	empty := own
	empty.Projects = nil
	b.pass(t, shared, empty)
	shared.Projects = nil
	for range 3 {
		b.now = b.now.Add(10 * time.Minute)
		b.pass(t, shared, own)
	}
	if b.gitlab.keys(42, "*") != "KUBECONFIG" || !slices.Equal(b.gitlab.removed, []string{"42 ICC-K8s"}) {
		t.Errorf("the project has %q; taken back: %v", b.gitlab.keys(42, "*"), b.gitlab.removed)
	}
}

// TestTheTokenIsWhereTheProjectNeedsIt: in KUBE_TOKEN alone, or in KUBECONFIG, too; GitLabs that replace references have it in both.
func TestTheTokenIsWhereTheProjectNeedsIt(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	inFile := project("haw-world", 42, rbacsync.DeliverVariables)
	inFile.Projects[0].TokenInFile = true
	holds := func() bool {
		t.Helper()
		if !b.works(t, "haw-world", b.token(42)) {
			t.Error("KUBE_TOKEN does not work")
		}
		return strings.Contains(b.gitlab.got[42]["ICC-K8s"]["KUBECONFIG"].Value, b.token(42))
	}
	for _, c := range []struct {
		n       ci.Namespace
		expands bool
		want    bool
		renewed int
	}{{world, false, false, 1}, {inFile, false, true, 1}, {inFile, true, true, 0}, {world, true, true, 0}, {world, false, false, 0}, {world, true, true, 1}} {
		b.Expands = func(context.Context) (bool, error) { return c.expands, nil }
		b.now = b.now.Add(10 * time.Minute)
		issued := b.issued
		b.pass(t, c.n)
		if holds() != c.want {
			t.Errorf("in file %t, expands %t: KUBECONFIG holds the token: %t", c.n.Projects[0].TokenInFile, c.expands, !c.want)
		}
		if made := b.issued - issued; issued > 0 && made != c.renewed {
			t.Errorf("in file %t, expands %t: %d new tokens, want %d", c.n.Projects[0].TokenInFile, c.expands, made, c.renewed)
		}
	}
}

// TestAnExplanationThatWentGoesOnce: a reading from before shows it still, also to another process.
func TestAnExplanationThatWentGoesOnce(t *testing.T) {
	t.Parallel()
	for _, lost := range []bool{false, true} { // the record, as after a rollback
		b := newBench(t)
		b.pass(t, explaining(rbacsync.DeliverVariables))
		b.now = b.now.Add(10 * time.Minute)
		if lost {
			b.forgetExplanations(t)
		}
		b.restart()
		old := b.read(world)
		for range 3 {
			b.now = b.now.Add(time.Minute)
			b.pass(t, old)
			b.restart()
		}
		if b.gitlab.keys(42, "*") != "" || len(slices.DeleteFunc(b.gitlab.removed, func(s string) bool { return s != "42 *" })) != 1 {
			t.Errorf("record lost %t: the project has %q; taken back: %v", lost, b.gitlab.keys(42, "*"), b.gitlab.removed)
		}
	}
}

// forgetExplanations makes the records those of a version that knows none.
func (b *bench) forgetExplanations(t *testing.T) {
	t.Helper()
	s := b.secret(t, "haw-world")
	var recs map[string]map[string]any
	if err := json.Unmarshal([]byte(s.Annotations[kubename.AnnotationCIProjects]), &recs); err != nil || recs["42"]["explained"] == nil {
		t.Fatalf("%v: %v", err, recs)
	}
	delete(recs["42"], "explained")
	text, err := json.Marshal(recs)
	if err != nil {
		t.Fatal(err)
	}
	s.Annotations[kubename.AnnotationCIProjects] = string(text)
	if _, err := b.kube.CoreV1().Secrets("haw-world").Update(t.Context(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// TestAnExplanationGoesBesideAnotherCluster: what is for all environments does not wait until one of them is ours.
func TestAnExplanationGoesBesideAnotherCluster(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]ci.Namespace{
		"switched off":   world,
		"to agent":       project("haw-world", 42, rbacsync.DeliverAgent),
		"to certificate": project("haw-world", 42, rbacsync.DeliverCertificate),
		"stays":          explaining(rbacsync.DeliverVariables),
	} {
		for _, shown := range []bool{true, false} {
			b := newBench(t)
			b.pass(t, explaining(rbacsync.DeliverVariables))
			b.now = b.now.Add(10 * time.Minute)
			b.restart()
			b.Variables, b.Clusters = others{b.gitlab}, othersClusters{b.clusters}
			n := next
			if shown {
				n = b.read(n)
				for i, v := range n.Projects[0].Variables {
					if v.Scope == b.Scope {
						n.Projects[0].Variables[i].Cluster = "another"
					}
				}
			}
			r := b.pass(t, n)
			want := ""
			if name == "stays" {
				want = "KUBECONFIG"
			}
			if b.gitlab.keys(42, "*") != want || b.gitlab.keys(42, "ICC-K8s") != allKeys {
				t.Errorf("%s, shown %t: the project has %q and %q, findings %v", name, shown, b.gitlab.keys(42, "*"), b.gitlab.keys(42, "ICC-K8s"), r.Findings)
			}
			told := slices.ContainsFunc(r.Handed, func(h ci.Handover) bool { return h.Explanation == ci.Removed })
			if told != (want == "") {
				t.Errorf("%s, shown %t: handed %+v", name, shown, r.Handed)
			}
		}
	}
}

// others is a GitLab in which another cluster has the environment.
type others struct{ *variables }

func (o others) Ensure(ctx context.Context, project int64, scope string, vars []ci.Variable, known *ci.ProjectVariables, claim ci.Claim) (int, error) {
	if scope != "*" {
		return 0, &ci.OtherClusterError{Project: project, Scope: scope, Cluster: "another", Keys: []string{"KUBECONFIG"}}
	}
	return o.variables.Ensure(ctx, project, scope, vars, known, claim)
}

type othersClusters struct{ *clusters }

func (othersClusters) Ensure(_ context.Context, project int64, scope string, _ ci.Cluster, _, _ string, _ ci.Claim) (bool, error) {
	return false, &ci.OtherClusterError{Project: project, Scope: scope, Cluster: "another"}
}
