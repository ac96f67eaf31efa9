package gitlab

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

var wantedVars = CIVariables{Scope: "ICC-K8s", Keys: []string{"KUBECONFIG", "KUBE_TOKEN"}}

func withVars(o *Options) { o.CIVariables = wantedVars }

func (o *org) variable(project string, va gitlabsim.Variable) {
	o.t.Helper()
	if va.Value == "" {
		va.Value = "secret-value-of-" + va.Key
	}
	o.ok(o.w.SetVariable(o.id[project], va))
}

func (o *org) seedVariables() {
	o.variable("app", gitlabsim.Variable{Key: "KUBECONFIG", EnvironmentScope: "ICC-K8s", VariableType: "file", Raw: true, Protected: true, Description: Variable{Cluster: them, Description: "x"}.description()})
	o.variable("app", gitlabsim.Variable{Key: "KUBE_TOKEN", EnvironmentScope: "ICC-K8s", Masked: true, Description: "by hand"})
	o.variable("app", gitlabsim.Variable{Key: "KUBE_TOKEN", EnvironmentScope: "*", Hidden: true})                         // not ours, another scope
	o.variable("app", gitlabsim.Variable{Key: "SOMETHING", EnvironmentScope: "ICC-K8s"})                                  // another key
	o.variable("app", gitlabsim.Variable{Key: "KUBE_URL", EnvironmentScope: "old-scope", Raw: true, Description: Marker}) // a leftover of ours
}

func appVars() []authz.CIVariable {
	return []authz.CIVariable{
		{Key: "KUBECONFIG", Scope: "ICC-K8s", File: true, Protected: true, Raw: true, Marked: true, Cluster: them},
		{Key: "KUBE_TOKEN", Scope: "ICC-K8s", Masked: true},
		{Key: "KUBE_URL", Scope: "old-scope", Raw: true, Marked: true},
	}
}

// shown returns the variables that a reading brought of a project; nil: it brought none.
func shown(s *authz.Snapshot, project int64) []authz.CIVariable {
	list, _ := s.Projects[project].CIVariables()
	return list
}

// withoutVars compares what rights depend on.
var withoutVars = cmp.Options{cmpopts.IgnoreFields(authz.Project{}, "Variables"), cmpopts.IgnoreFields(authz.Snapshot{}, "Taken", "From")}

func TestCIVariablesAreRead(t *testing.T) {
	o := newOrg(t)
	o.seedVariables()
	var asked []string
	r := o.faultyReader(func(_ *http.Request, body string) *http.Response { asked = append(asked, body); return nil }, withVars)
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	if d := cmp.Diff(appVars(), shown(s, o.id["app"])); d != "" {
		t.Errorf("(-want +read)\n%s", d)
	}
	for id, p := range s.Projects {
		if p.Variables == nil {
			t.Errorf("project %d: its variables count as unread", id)
		}
	}
	if d := cmp.Diff(o.want(true), s, append(withoutVars, cmpopts.EquateEmpty())...); d != "" {
		t.Errorf("rights (-want +read)\n%s", d)
	}
	all := strings.Join(asked, "")
	if !strings.Contains(all, "ciVariables") || strings.Contains(all, " value") {
		t.Error("the queries must ask for variables, but not for their values")
	}
	if s, err = o.reader(nil).Snapshot(t.Context()); err != nil || s.Projects[o.id["app"]].Variables != nil {
		t.Errorf("without being wanted they were read: %v", err)
	}
}

func TestCIVariablesUnknown(t *testing.T) {
	for _, tt := range []struct {
		name, version, user string
		change              func(*Options)
		read                bool
	}{
		{name: "REST alone", change: func(o *Options) { withVars(o); o.RESTOnly = true }},
		{name: "GitLab that does not tell descriptions", version: "16.1.0", change: withVars},
		{name: "GitLab without hidden variables", version: "17.3.0", change: withVars, read: true},
		{name: "token of a developer", user: "bob", change: withVars},
		{name: "token of a maintainer", user: "carol", change: withVars, read: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := newOrgOf(t, tt.version)
			o.seedVariables()
			r := o.reader(func(op *Options) {
				tt.change(op)
				if tt.user != "" {
					token := o.sim.TokenFor(tt.user, "read_api")
					op.Token = func() (string, error) { return token, nil }
				}
			})
			s, err := r.Snapshot(t.Context())
			o.ok(err)
			p, ok := s.Projects[o.id["app"]]
			if list, read := p.CIVariables(); !ok || read != tt.read || len(list) > 0 != tt.read {
				t.Errorf("listed %v, read %v, variables %v; want read %v", ok, read, list, tt.read)
			}
		})
	}
}

// TestCIVariablesNeverHarmMembers: whatever goes wrong with variables, rights are read as if they had not been asked for.
func TestCIVariablesNeverHarmMembers(t *testing.T) {
	failing := func(status int, body string) func(*http.Request, string) *http.Response {
		return func(_ *http.Request, b string) *http.Response {
			if strings.Contains(b, "ciVariables") {
				return answer(status, body)
			}
			return nil
		}
	}
	for name, strike := range map[string]func(*http.Request, string) *http.Response{
		"error of the resolver": failing(200, `{"data":{"a0":null},"errors":[{"message":"Internal server error"}]}`),
		"timeout":               failing(503, `{"errors":[{"message":"Request timed out"}]}`),
		"too complex":           failing(200, `{"errors":[{"message":"Query has complexity of 301, which exceeds max complexity of 250"}]}`),
		"schema not told": func(_ *http.Request, b string) *http.Response {
			if strings.Contains(b, "query Schema") {
				return answer(200, `{"errors":[{"message":"introspection is off"}]}`)
			}
			return failing(200, `{"errors":[{"message":"Field 'ciVariables' doesn't exist on type 'Project'"}]}`)(nil, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrg(t)
			o.seedVariables()
			s, err := o.faultyReader(strike, withVars).Snapshot(t.Context())
			o.ok(err)
			if s.Projects[o.id["app"]].Variables != nil {
				t.Error("unread variables count as read")
			}
			if d := cmp.Diff(o.want(true), s, append(withoutVars, cmpopts.EquateEmpty())...); d != "" {
				t.Errorf("rights (-want +read)\n%s", d)
			}
		})
	}
}

func TestCIVariablesOfManyPages(t *testing.T) {
	o := newOrg(t)
	o.seedVariables()
	for i := range 20 {
		o.variable("app", gitlabsim.Variable{Key: fmt.Sprintf("OTHER_%d", i)})
	}
	small := func(op *Options) { withVars(op); op.PageSize = 3 }
	s, err := o.reader(small).Snapshot(t.Context())
	o.ok(err)
	if d := cmp.Diff(appVars(), shown(s, o.id["app"])); d != "" {
		t.Errorf("(-want +read)\n%s", d)
	}
	// Nobody can make us read without end: then the project is unknown, the others are not.
	for i := range 3 * (maxVarPages + 2) {
		o.variable("app", gitlabsim.Variable{Key: fmt.Sprintf("MANY_%d", i)})
	}
	s, err = o.reader(small).Snapshot(t.Context())
	o.ok(err)
	if p := s.Projects[o.id["app"]]; p.Variables != nil {
		t.Errorf("read %v", *p.Variables)
	}
	if s.Projects[o.id["lib"]].Variables == nil {
		t.Error("another project became unknown")
	}
}

// TestCIVariablesCostNoRequest: the pages of projects decide how many requests a large instance takes.
func TestCIVariablesCostNoRequest(t *testing.T) {
	o := newOrg(t)
	for i := range 60 {
		o.project(fmt.Sprintf("many%d", i), "haw")
	}
	count := func(change func(*Options)) int64 {
		r := o.reader(func(op *Options) { op.PageSize = 3; change(op) })
		_, err := r.Snapshot(t.Context())
		o.ok(err)
		return r.Requests()["graphql"]
	}
	without, with := count(func(*Options) {}), count(withVars)
	if with != without {
		t.Errorf("%d GraphQL requests with variables, %d without", with, without)
	}
}

// TestCIVariablesComplexity: the query as it is sent to a large instance stays below the limit of a signed-in user.
func TestCIVariablesComplexity(t *testing.T) {
	o := newOrg(t)
	token := o.sim.TokenFor("alice", "read_api")
	r := o.reader(func(op *Options) {
		withVars(op)
		op.Token = func() (string, error) { return token, nil }
	})
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	if s.Projects[o.id["app"]].Variables == nil || r.Requests()["members"] > 0 {
		t.Errorf("read %v with %v", s.Projects[o.id["app"]].Variables != nil, r.Requests())
	}
	sc, err := readSchema(t.Context(), r.api, true)
	o.ok(err)
	// A large instance: a page of each list goes into one request of an administrator, and groups with projects into one of
	// anybody else. Else the number of requests would grow.
	g := newGQLRead(r.api, serverFacts{schema: sc}, newDraft(), newVarsReading(wantedVars))
	both := costProbe + g.groups("", 100, false).cost + g.projects("", 100, false).cost
	if both > defaultLimit || both+2*costUsers > 300 {
		t.Errorf("groups and projects cost %d, with users %d", both, both+2*costUsers)
	}
	for _, n := range []int{1, 50, 100} {
		g := newGQLRead(r.api, serverFacts{schema: sc}, newDraft(), newVarsReading(wantedVars))
		p := g.projects("", n, false)
		data, err := r.api.query(t.Context(), "query X($c: String){queryComplexity{score} a: "+fmt.Sprintf(p.text, "$c")+"}"+sc.fragments(p.fragments), nil)
		o.ok(err)
		if got := string(data["queryComplexity"]); got != fmt.Sprintf(`{"score":%d}`, p.cost+2) {
			t.Errorf("pages of %d: the server counts %s, we count %d + 2", n, got, p.cost)
		}
	}
}

// TestATargetedReadingReadsVariablesOfNewProjectsAlone: those of others stay as they were at Taken, which stays too, so that a
// revocation never waits for them.
func TestATargetedReadingReadsVariablesOfNewProjectsAlone(t *testing.T) {
	o := newOrg(t)
	o.seedVariables()
	app, lib := authz.ProjectID(o.id["app"]), authz.ProjectID(o.id["lib"])
	r := o.reader(withVars)
	base, err := r.Snapshot(t.Context())
	o.ok(err)
	o.ok(o.w.RemoveVariable(app.ID, "KUBECONFIG", "ICC-K8s"))
	before := r.Requests()["graphql"]
	s, err := r.Refresh(t.Context(), base, []authz.SourceID{app, lib})
	o.ok(err)
	if d := cmp.Diff(appVars(), shown(s, app.ID)); d != "" || s.Projects[lib.ID].Variables == nil || !s.Taken.Equal(base.Taken) {
		t.Errorf("lib read: %v, of %s, want %s (-want +read)\n%s", s.Projects[lib.ID].Variables != nil, s.Taken, base.Taken, d)
	}
	if n := r.Requests()["graphql"] - before; n != 0 {
		t.Errorf("%d GraphQL requests, want none", n)
	}
	delete(base.Projects, app.ID) // as if it had just been made
	s, err = r.Refresh(t.Context(), base, []authz.SourceID{app, lib})
	o.ok(err)
	if d := cmp.Diff(appVars()[1:], shown(s, app.ID)); d != "" {
		t.Errorf("(-want +read)\n%s", d)
	}
	if n := r.Requests()["graphql"] - before; n != 1 {
		t.Errorf("%d GraphQL requests, want 1", n)
	}
	broken := o.faultyReader(func(_ *http.Request, b string) *http.Response {
		if strings.Contains(b, "ciVariables") {
			return answer(503, "{}")
		}
		return nil
	}, func(op *Options) { withVars(op); op.RetryWait = time.Millisecond })
	s, err = broken.Refresh(t.Context(), base, []authz.SourceID{app})
	o.ok(err)
	if p := s.Projects[app.ID]; p.Variables != nil || len(p.Members) == 0 || len(s.Missing) > 0 {
		t.Errorf("read %v, %d members, missing %v", p.Variables != nil, len(p.Members), s.Missing)
	}
}

func TestCIVariablesAreInterned(t *testing.T) {
	v := newVarsReading(wantedVars)
	for range 2 {
		key := strings.Clone("KUBE_TOKEN")
		if v.intern(key); !slices.Contains(wantedVars.Keys, v.intern(key)) || len(v.text) != 3 {
			t.Errorf("%d texts", len(v.text))
		}
	}
}
