package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

func (o *org) writer(user string) *Variables {
	o.t.Helper()
	token := o.sim.TokenFor(user, "api")
	opts := o.options()
	opts.Token = func() (string, error) { return token, nil }
	w, err := NewVariables(opts)
	o.ok(err)
	return w
}

// us is this cluster, them is another one.
var us = Claim{Cluster: "00000000-0000-4000-8000-00000000000a"}

const them = "00000000-0000-4000-8000-00000000000b"

func (o *org) variables(project string) (out []gitlabsim.Variable) {
	o.w.View(func(v *gitlabsim.View) { out = append(out, v.Project(o.id[project]).Variables...) })
	return out
}

func TestVariables(t *testing.T) {
	o := newOrg(t)
	ctx, app := t.Context(), o.id["app"]
	w := o.writer("root")
	const scope = "ICC-K8s"
	want := []Variable{
		{Key: "KUBECONFIG", Value: "apiVersion: v1\nkind: Config\n", Type: File, Protected: true, Raw: true, EnvironmentScope: scope, Cluster: us.Cluster, Description: "namespace haw-world"},
		{Key: "KUBE_TOKEN", Value: "eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl", Type: EnvVar, Masked: true, Protected: true, Raw: true, EnvironmentScope: scope, Cluster: us.Cluster},
		{Key: "KUBE_URL", Value: "https://k8s.example.com:6443", EnvironmentScope: scope, Cluster: us.Cluster, Raw: true},
	}
	step := func(name string, wantChanged int) {
		t.Helper()
		if n, err := w.Ensure(ctx, app, want, Have{}, us); n != wantChanged || err != nil {
			t.Fatalf("%s: Ensure = %d, %v; want %d", name, n, err, wantChanged)
		}
	}
	step("create", 3)
	before := w.Requests()["write"]
	step("again", 0)
	if n := w.Requests()["write"] - before; n != 0 {
		t.Errorf("nothing differed, but %d writes were sent", n)
	}
	got, err := w.List(ctx, app)
	o.ok(err)
	listed := []Variable{}
	for _, v := range want {
		v.Marked = true
		if v.Type == "" {
			v.Type = EnvVar
		}
		listed = append(listed, v)
	}
	if d := cmp.Diff(listed, got); d != "" {
		t.Errorf("(-want +listed)\n%s", d)
	}
	for _, v := range o.variables("app") {
		if !strings.HasPrefix(v.Description, Marker) || v.EnvironmentScope != scope || !v.Raw {
			t.Errorf("GitLab has %+v", v)
		}
	}
	want[1].Value = "eyJhbGciOi.eyJpc3MiOi.bmV3"
	step("rotated", 1)
	want[0].Protected = false
	want[2].Description = "renamed"
	step("changed", 2)

	// A person's own variables: same key in another scope is none of our business, in the same scope an error.
	own := gitlabsim.Variable{Key: "KUBE_TOKEN", Value: "mine-alone", VariableType: "env_var", EnvironmentScope: "*"}
	o.ok(o.w.SetVariable(app, own))
	step("other scope", 0)
	mine := gitlabsim.Variable{Key: "KUBE_NAMESPACE", Value: "somewhere", VariableType: "env_var", EnvironmentScope: scope, Description: "by hand, not " + Marker}
	o.ok(o.w.SetVariable(app, mine))
	want = append([]Variable{{Key: "KUBE_NAMESPACE", Value: "haw-world", EnvironmentScope: scope, Raw: true}}, want...)
	want[1].Value += "x"
	n, err := w.Ensure(ctx, app, want, Have{}, us)
	var foreign *ForeignVariableError
	if n != 1 || !errors.As(err, &foreign) || foreign.Key != "KUBE_NAMESPACE" || foreign.Project != app {
		t.Errorf("Ensure = %d, %v; want the other one written and a ForeignVariableError", n, err)
	}
	for _, v := range o.variables("app") {
		if (v.Key == mine.Key && v.Value != mine.Value) || (v.EnvironmentScope == "*" && v.Value != own.Value) {
			t.Errorf("a foreign variable was changed: %+v", v)
		}
	}
	if n, err := w.Remove(ctx, app, []string{scope}, nil, Have{}, us); n != 3 || err != nil {
		t.Errorf("Remove = %d, %v; want 3", n, err)
	}
	if left := o.variables("app"); len(left) != 2 {
		t.Errorf("left over: %+v; want the two foreign ones", left)
	}
	if n, err := w.Remove(ctx, 4711, []string{scope}, nil, Have{}, us); n != 0 || err != nil {
		t.Errorf("Remove of a vanished project = %d, %v", n, err)
	}
}

func TestVariableErrors(t *testing.T) {
	o := newOrg(t)
	ctx := t.Context()
	const value = "short by two words, hunter2"
	masked := []Variable{{Key: "KUBE_TOKEN", Value: value, Masked: true, EnvironmentScope: "ICC-K8s"}}
	for _, tt := range []struct {
		name, user string
		project    int64
		kind       error
		hint       string
	}{
		{"can't be masked", "root", o.id["app"], ErrMasking, "KUBE_TOKEN of project"},
		{"no permission", "erin", o.id["app"], ErrNotFound, "Maintainer"}, // GitLab hides what one can't see
		{"developer", "bob", o.id["app"], ErrForbidden, "Maintainer"},
		{"no such project", "root", 4711, ErrNotFound, "project 4711"},
	} {
		n, err := o.writer(tt.user).Ensure(ctx, tt.project, masked, Have{}, us)
		if n != 0 || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.hint) {
			t.Errorf("%s: Ensure = %d, %v; want %v with %q", tt.name, n, err, tt.kind, tt.hint)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the value is in %q", tt.name, err)
		}
	}
	if _, err := o.writer("root").Ensure(ctx, o.id["app"], []Variable{{Key: "A-B", Value: value, EnvironmentScope: "*"}}, Have{}, us); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("bad key: %v", err)
	}
	if b, err := json.Marshal(masked[0]); err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("JSON has the value: %s, %v", b, err)
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, masked[0]); strings.Contains(s, "hunter2") {
			t.Errorf("%s prints the value: %s", verb, s)
		}
	}
}

func TestDescription(t *testing.T) {
	for d, want := range map[string]mark{
		"":                                      {},
		Marker:                                  {ours: true},
		Marker + ": x":                          {ours: true, text: "x"},
		Marker + ": cluster 4-2":                {ours: true, cluster: "4-2"},
		Marker + ": cluster 4-2: do not edit":   {ours: true, cluster: "4-2", text: "do not edit"},
		Marker + ": cluster 4-2: delivery a_-9": {ours: true, cluster: "4-2", delivery: "a_-9"},
		Marker + ": delivery a_-9: x":           {ours: true, delivery: "a_-9", text: "x"},
		Marker + ": delivery " + strings.Repeat("a", 33): {ours: true, text: "delivery " + strings.Repeat("a", 33)},
		Marker + ": delivery a b: x":                     {ours: true, text: "delivery a b: x"},
		Marker + " not":                                  {text: " not"},
		"not " + Marker:                                  {text: "not " + Marker},
		strings.ToLower(Marker):                          {text: strings.ToLower(Marker)},
	} {
		if m := parseDescription(d); m != want && (m.ours || want.ours) {
			t.Errorf("%q: %+v, want %+v", d, m, want)
		}
	}
	v := Variable{Cluster: us.Cluster, Delivery: "a_-9", Description: "do not edit"}
	if m := parseDescription(v.description()); m != (mark{ours: true, cluster: us.Cluster, delivery: v.Delivery, text: "do not edit"}) {
		t.Errorf("%q: %+v", v.description(), m)
	}
	v.Description = strings.Repeat("ä", 400)
	if d := v.description(); len([]rune(d)) != 255 {
		t.Errorf("a description of %d characters", len([]rune(d)))
	}
}

// TestWhose is the whole table: what the mark says counts, our record only where the mark names no cluster.
func TestWhose(t *testing.T) {
	const gone = "00000000-0000-4000-8000-00000000000c"
	name := map[owner]string{ours: "ours", otherCluster: "another cluster's", somebodys: "somebody's"}
	for _, replaces := range [][]string{nil, {gone}, {Unnamed}, {gone, Unnamed}} {
		for _, wrote := range []bool{false, true} {
			c := Claim{Cluster: us.Cluster, Replaces: replaces, Wrote: func(string, string) bool { return wrote }}
			record := map[bool]owner{true: ours, false: otherCluster}
			for description, want := range map[string]owner{
				"":                       map[bool]owner{true: ours, false: somebodys}[wrote],
				"by hand":                somebodys,
				"by hand, not " + Marker: somebodys,
				Marker + ": do not edit": record[wrote || slices.Contains(replaces, Unnamed)],
				Variable{Cluster: us.Cluster}.description(): ours,
				Variable{Cluster: them}.description():       otherCluster,
				Variable{Cluster: gone}.description():       record[slices.Contains(replaces, gone)],
			} {
				text, err := json.Marshal(description)
				o := restVariable{Key: "K", Value: "v", Description: text}
				if got, _ := c.variable(o); err != nil || got != want {
					t.Errorf("%q, replaces %v, we wrote it: %v: %s, want %s", description, replaces, wrote, name[got], name[want])
				}
				o.Hidden = true // nobody sees the value, so our record says nothing
				if got, _ := c.variable(o); got == ours && (description == "" || description == Marker+": do not edit" && !slices.Contains(replaces, Unnamed)) {
					t.Errorf("%q, hidden: ours", description)
				}
			}
		}
	}
}

// TestEnsureWithKnowledge: what the batched reading returned saves the listing; outdated knowledge costs one.
func TestEnsureWithKnowledge(t *testing.T) {
	o := newOrg(t)
	ctx, app := t.Context(), o.id["app"]
	w := o.writer("root")
	const scope = "ICC-K8s"
	want := []Variable{
		{Key: "KUBE_TOKEN", Value: "eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl", Masked: true, Raw: true, EnvironmentScope: scope, Cluster: us.Cluster},
		{Key: "KUBE_URL", Value: "https://k8s.example.com:6443", EnvironmentScope: scope, Cluster: us.Cluster, Raw: true},
	}
	ours := []authz.CIVariable{{Key: "KUBE_TOKEN", Scope: scope, Marked: true}, {Key: "KUBE_URL", Scope: scope, Marked: true}}
	value := func(key string) string {
		for _, v := range o.variables("app") {
			if v.Key == key && v.EnvironmentScope == scope {
				return v.Value
			}
		}
		return ""
	}
	step := func(name string, have Have, changed, lists, posts, puts int) {
		t.Helper()
		o.sim.ResetRequests()
		n, err := w.Ensure(ctx, app, want, have, us)
		r := o.sim.Requests()
		if n != changed || err != nil || r["GET /projects/:id/variables"] != lists || r["POST /projects/:id/variables"] != posts || r["PUT /projects/:id/variables/:key"] != puts {
			t.Fatalf("%s: Ensure = %d, %v with %v; want %d changed, %d lists, %d posts, %d puts", name, n, err, r, changed, lists, posts, puts)
		}
		for _, v := range want {
			if value(v.Key) != v.Value {
				t.Fatalf("%s: %s has the value %q", name, v.Key, value(v.Key))
			}
		}
	}
	step("known to be empty", Have{Known: true}, 2, 0, 2, 0)
	want[0].Value += "2"
	step("known to be there", Have{Known: true, Variables: ours}, 1, 1, 0, 1) // the second one is as it should be, as the list says
	want[0].Value += "3"
	step("thought to be empty", Have{Known: true}, 1, 1, 1, 1) // the second one is as it should be, as the list says
	o.ok(o.w.RemoveVariable(app, "KUBE_TOKEN", scope))
	step("thought to be there", Have{Known: true, Variables: ours}, 1, 1, 1, 0)
	o.ok(o.w.RemoveVariable(app, "KUBE_TOKEN", scope))
	o.ok(o.w.RemoveVariable(app, "KUBE_URL", scope))
	step("in another scope", Have{Known: true, Variables: []authz.CIVariable{{Key: "KUBE_TOKEN", Scope: "*", Marked: true}}}, 2, 0, 2, 0)

	// A person's own variable, known or found out: reported, never written.
	for name, have := range map[string]Have{
		"known":        {Known: true, Variables: []authz.CIVariable{{Key: "KUBE_TOKEN", Scope: scope}, ours[1]}},
		"not known of": {Known: true, Variables: ours[1:]},
		"ours once":    {Known: true, Variables: ours},
		"listed":       {},
	} {
		o.ok(o.w.RemoveVariable(app, "KUBE_TOKEN", scope))
		o.ok(o.w.SetVariable(app, gitlabsim.Variable{Key: "KUBE_TOKEN", Value: "my-own-value", EnvironmentScope: scope}))
		_, err := w.Ensure(ctx, app, want, have, us)
		var foreign *ForeignVariableError
		if !errors.As(err, &foreign) || foreign.Key != "KUBE_TOKEN" || value("KUBE_TOKEN") != "my-own-value" || value("KUBE_URL") != want[1].Value {
			t.Errorf("%s: %v; the variable has %q", name, err, value("KUBE_TOKEN"))
		}
	}
	if _, err := w.Ensure(ctx, 4711, want, Have{Known: true, Variables: ours}, us); !errors.Is(err, ErrNotFound) {
		t.Errorf("a vanished project: %v", err)
	}
}

// TestRemoveLeftovers: a changed mode or scope leaves nothing of ours behind, and touches nothing else.
func TestRemoveLeftovers(t *testing.T) {
	o := newOrg(t)
	ctx, app := t.Context(), o.id["app"]
	w := o.writer("root")
	set := func(key, scope, description string) {
		t.Helper()
		o.ok(o.w.SetVariable(app, gitlabsim.Variable{Key: key, Value: "some-value", EnvironmentScope: scope, Description: description}))
	}
	mark := Variable{Cluster: us.Cluster}.description()
	set("KUBECONFIG", "new", mark)
	set("KUBE_TOKEN", "new", mark)
	set("KUBE_TOKEN", "old", mark+": x")
	set("KUBE_TOKEN", "other-scope", mark)
	set("KUBE_CA_PEM", "new", Variable{Cluster: them}.description())
	set("KUBE_NAMESPACE", "new", Marker) // nothing says whose
	set("KUBE_URL", "new", "my own")
	keep := []Variable{{Key: "KUBECONFIG", EnvironmentScope: "new"}}
	before := w.Requests()
	if n, err := w.Remove(ctx, app, []string{"new", "old"}, keep, Have{Known: true, Variables: []authz.CIVariable{{Key: "KUBE_URL", Scope: "new"}, {Key: "KUBECONFIG", Scope: "new", Marked: true}}}, us); n != 0 || err != nil || len(w.Requests()) != len(before) {
		t.Errorf("with knowledge of nothing to do: Remove = %d, %v with %v", n, err, w.Requests())
	}
	if n, err := w.Remove(ctx, app, []string{"new", "old"}, keep, Have{}, us); n != 2 || err != nil {
		t.Errorf("Remove = %d, %v; want 2", n, err)
	}
	left := []string{}
	for _, v := range o.variables("app") {
		left = append(left, v.Key+" "+v.EnvironmentScope)
	}
	if d := cmp.Diff([]string{"KUBECONFIG new", "KUBE_TOKEN other-scope", "KUBE_CA_PEM new", "KUBE_NAMESPACE new", "KUBE_URL new"}, left); d != "" {
		t.Errorf("(-want +left)\n%s", d)
	}
}

// TestVariableRefusals: each reason has its own error, and none has a value.
func TestVariableRefusals(t *testing.T) {
	o := newOrg(t)
	ctx := t.Context()
	for i := range 8000 {
		o.ok(o.w.CreateVariable(o.id["lib"], gitlabsim.Variable{Key: fmt.Sprintf("V%d", i), Value: "x"}))
	}
	good := Variable{Key: "K", Value: "hunter2-hunter2", EnvironmentScope: "ICC-K8s"}
	// A full project still gets updates of what it has.
	o.ok(o.w.RemoveVariable(o.id["lib"], "V0", "*"))
	o.ok(o.w.CreateVariable(o.id["lib"], gitlabsim.Variable{Key: "Z", Value: "old-value", EnvironmentScope: "ICC-K8s", Description: Variable{Cluster: us.Cluster}.description()}))
	z := good
	z.Key = "Z"
	if n, err := o.writer("root").Ensure(ctx, o.id["lib"], []Variable{good, z}, Have{}, us); n != 1 || !errors.Is(err, ErrVariableLimit) {
		t.Errorf("full project: Ensure = %d, %v; want the other one written", n, err)
	}
	masked, scoped := good, good
	masked.Masked, masked.Value = true, "hunter2 in several words"
	scoped.EnvironmentScope = "not!a!scope"
	for _, tt := range []struct {
		name, user, project string
		v                   Variable
		want                error
	}{
		{"masking", "root", "app", masked, ErrMasking},
		{"limit", "root", "lib", good, ErrVariableLimit},
		{"scope", "root", "app", scoped, ErrVariableRefused},
		{"a developer's token", "bob", "app", good, ErrNoMaintainer},
		{"a stranger's token", "erin", "app", good, ErrNoMaintainer},
	} {
		for _, have := range []Have{{}, {Known: true}} {
			n, err := o.writer(tt.user).Ensure(ctx, o.id[tt.project], []Variable{tt.v}, have, us)
			if n != 0 || !errors.Is(err, tt.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s, known %v: Ensure = %d, %v; want %v", tt.name, have.Known, n, err, tt.want)
			}
			for _, other := range []error{ErrMasking, ErrVariableLimit, ErrVariableRefused, ErrNoMaintainer} {
				if !errors.Is(tt.want, other) && errors.Is(err, other) {
					t.Errorf("%s: the error is also %q", tt.name, other)
				}
			}
		}
	}
}
