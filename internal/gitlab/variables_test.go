package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

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
		{Key: "KUBECONFIG", Value: "apiVersion: v1\nkind: Config\n", Type: File, Protected: true, Raw: true, EnvironmentScope: scope, Description: "namespace haw-world"},
		{Key: "KUBE_TOKEN", Value: "eyJhbGciOi.eyJpc3MiOi.c2lnbmF0dXJl", Type: EnvVar, Masked: true, Protected: true, Raw: true, EnvironmentScope: scope},
		{Key: "KUBE_URL", Value: "https://k8s.example.com:6443", EnvironmentScope: scope, Raw: true},
	}
	step := func(name string, wantChanged int) {
		t.Helper()
		if n, err := w.Ensure(ctx, app, want); n != wantChanged || err != nil {
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
		v.Ours = true
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
	n, err := w.Ensure(ctx, app, want)
	var foreign *ForeignVariableError
	if n != 1 || !errors.As(err, &foreign) || foreign.Key != "KUBE_NAMESPACE" || foreign.Project != app {
		t.Errorf("Ensure = %d, %v; want the other one written and a ForeignVariableError", n, err)
	}
	for _, v := range o.variables("app") {
		if (v.Key == mine.Key && v.Value != mine.Value) || (v.EnvironmentScope == "*" && v.Value != own.Value) {
			t.Errorf("a foreign variable was changed: %+v", v)
		}
	}
	if n, err := w.Remove(ctx, app, scope); n != 3 || err != nil {
		t.Errorf("Remove = %d, %v; want 3", n, err)
	}
	if left := o.variables("app"); len(left) != 2 {
		t.Errorf("left over: %+v; want the two foreign ones", left)
	}
	if n, err := w.Remove(ctx, 4711, scope); n != 0 || err != nil {
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
		{"developer", "bob", o.id["app"], ErrForbidden, "role Maintainer"},
		{"no such project", "root", 4711, ErrNotFound, "project 4711"},
	} {
		n, err := o.writer(tt.user).Ensure(ctx, tt.project, masked)
		if n != 0 || !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.hint) {
			t.Errorf("%s: Ensure = %d, %v; want %v with %q", tt.name, n, err, tt.kind, tt.hint)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the value is in %q", tt.name, err)
		}
	}
	if _, err := o.writer("root").Ensure(ctx, o.id["app"], []Variable{{Key: "A-B", Value: value, EnvironmentScope: "*"}}); err == nil || strings.Contains(err.Error(), "hunter2") {
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

func TestOwnDescription(t *testing.T) {
	for d, ours := range map[string]bool{"": false, Marker: true, Marker + ": x": true, Marker + " not": false, "not " + Marker: false, strings.ToLower(Marker): false} {
		if got, _ := ownDescription(d); got != ours {
			t.Errorf("%q: ours = %v, want %v", d, got, ours)
		}
	}
	if d := fullDescription(strings.Repeat("ä", 400)); len([]rune(d)) != 255 {
		t.Errorf("a description of %d characters", len([]rune(d)))
	}
}
