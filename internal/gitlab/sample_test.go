package gitlab

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// sampleOrg adds everything in which GitLab's list is known to differ from what people really have.
func sampleOrg(t *testing.T) *org {
	o := newOrg(t)
	for i, m := range []gitlabsim.Member{
		{UserID: o.id["erin"], Level: 40, ExpiresAt: "2020-01-01"}, // over, but listed until the nightly job
		{UserID: o.id["dave"], Level: 50},                          // blocked
	} {
		id, err := o.w.AddGroup(gitlabsim.Group{Path: fmt.Sprintf("odd%d", i), Name: "odd", Members: []gitlabsim.Member{m, {UserID: o.id["bob"], Level: 30}}})
		o.ok(err)
		o.id[fmt.Sprintf("odd%d", i)] = id
	}
	// crowd11 reaches the project "second" through partner, into which crowd is invited: no list shows them.
	o.project("second", "odd0")
	o.ok(o.w.ShareGroup(o.id["partner"], o.id["crowd"], 30, ""))
	o.ok(o.w.ShareProject(o.id["second"], o.id["partner"], 40, ""))
	return o
}

func everything(o *org) Sample {
	return Sample{Size: 1000, Budget: 1000, Pause: time.Millisecond, Rand: rand.New(rand.NewPCG(1, 1))}
}

func TestSampleAgrees(t *testing.T) {
	o := sampleOrg(t)
	r := o.reader(nil)
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	report, err := r.CheckSample(t.Context(), s, everything(o))
	o.ok(err)
	if len(report.Checked) != len(s.Groups)+len(s.Projects) || len(report.Unread) != 0 || len(report.Findings) != 0 {
		t.Errorf("checked %d of %d, unread %v, findings %v", len(report.Checked), len(s.Groups)+len(s.Projects), report.Unread, report.Findings)
	}
	// The exceptions are really there, or the test shows nothing.
	second := authz.ProjectID(o.id["second"])
	listed, err := r.EffectiveMembers(t.Context(), second)
	o.ok(err)
	if ours := authz.NewResolver(s, time.Now()).Members(second); ours.Level(o.id["crowd11"]) == 0 || listed[o.id["crowd11"]] != 0 || listed[o.id["erin"]] != 40 || ours.Level(o.id["erin"]) != 0 {
		t.Errorf("crowd11: ours %v, listed %v; erin: ours %v, listed %v", ours.Level(o.id["crowd11"]), listed[o.id["crowd11"]], ours.Level(o.id["erin"]), listed[o.id["erin"]])
	}
}

// TestSampleFindsWrongAnswers: whatever is wrong about a level or a person is found, and only there; what was wrong
// for a moment, or changed between the reading and the sample, is not.
func TestSampleFindsWrongAnswers(t *testing.T) {
	o := sampleOrg(t)
	s, err := o.reader(nil).Snapshot(t.Context())
	o.ok(err)
	app := authz.ProjectID(o.id["app"])
	path := fmt.Sprintf("/api/v4/projects/%d/members/all", app.ID)
	row := func(user string, level int) string {
		return fmt.Sprintf(`{"id":%d,"username":%q,"state":"active","access_level":%d}`, o.id[user], user, level)
	}
	right, err := o.reader(nil).EffectiveMembers(t.Context(), app)
	o.ok(err)
	rows := func(change func(map[string]int)) string {
		levels := map[string]int{}
		for name, id := range o.id {
			if l, ok := right[id]; ok && !o.isSource(name) {
				levels[name] = int(l)
			}
		}
		change(levels)
		var out []string
		for name, l := range levels {
			out = append(out, row(name, l))
		}
		return "[" + strings.Join(out, ",") + "]"
	}
	differs := func(user string, ours, theirs authz.Level) []authz.Finding {
		return []authz.Finding{{
			Code: "membership_differs", Source: app,
			Text: fmt.Sprintf("gitlab user %d has %q by our reading, %q by GitLab's own list", o.id[user], ours, theirs),
		}}
	}
	for _, tt := range []struct {
		name  string
		wrong string
		times int
		want  []authz.Finding
	}{
		{"somebody has more", rows(func(m map[string]int) { m["bob"] = 40 }), 9, differs("bob", authz.Developer, authz.Maintainer)},
		{"somebody is missing", rows(func(m map[string]int) { delete(m, "alice") }), 9, differs("alice", authz.Owner, authz.NoAccess)},
		{"a stranger is listed", rows(func(m map[string]int) { m["erin"] = 30 }), 9, differs("erin", authz.NoAccess, authz.Developer)},
		{"a raw level, until the authorizations are refreshed", rows(func(m map[string]int) { m["bob"] = 50 }), 1, nil},
		{"somebody blocked has another level", rows(func(m map[string]int) { m["dave"] = 50 }), 9, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			left := tt.times
			r := o.faultyReader(func(req *http.Request, _ string) *http.Response {
				if req.URL.Path != path || left == 0 {
					return nil
				}
				left--
				return answer(200, tt.wrong)
			}, nil)
			report, err := r.CheckSample(t.Context(), s, everything(o))
			o.ok(err)
			if d := cmp.Diff(tt.want, report.Findings); d != "" {
				t.Errorf("findings (-want +got)\n%s", d)
			}
			if report.Differences != len(tt.want) {
				t.Errorf("%d differences", report.Differences)
			}
		})
	}

	t.Run("GitLab has changed since", func(t *testing.T) {
		o.ok(o.w.SetMember(gitlabsim.KindGroup, o.id["haw"], o.id["erin"], 40, ""))
		o.ok(o.w.RemoveMember(gitlabsim.KindGroup, o.id["world"], o.id["bob"]))
		o.ok(o.w.DeleteProject(o.id["lib"]))
		report, err := o.reader(nil).CheckSample(t.Context(), s, everything(o))
		o.ok(err)
		if len(report.Findings) != 0 || len(report.Checked) == 0 {
			t.Errorf("findings %v", report.Findings)
		}
	})
}

func (o *org) isSource(name string) bool {
	is := false
	o.w.View(func(v *gitlabsim.View) { is = v.UserByName(name) == nil })
	return is
}

func TestSampleKeepsToItsBudget(t *testing.T) {
	o := sampleOrg(t)
	r := o.reader(func(op *Options) { op.PageSize = 4 })
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	before := r.Requests()["members_all"]
	report, err := r.CheckSample(t.Context(), s, Sample{Size: 20, Budget: 6, Rand: rand.New(rand.NewPCG(3, 3))})
	o.ok(err)
	if n := r.Requests()["members_all"] - before; n > 6 || len(report.Checked) == 0 {
		t.Errorf("%d requests for %d sources", n, len(report.Checked))
	}
	s.Missing = map[authz.SourceID]string{authz.GroupID(o.id["haw"]): "unread"}
	report, err = r.CheckSample(t.Context(), s, everything(o))
	o.ok(err)
	for _, id := range report.Checked {
		if id == authz.GroupID(o.id["haw"]) || id == authz.ProjectID(o.id["app"]) {
			t.Errorf("%s depends on what was not read", id)
		}
	}
	s.MissingAll = "unread"
	if report, err = r.CheckSample(t.Context(), s, everything(o)); err != nil || len(report.Checked) != 0 {
		t.Errorf("%v, %v", report, err)
	}
}

func TestSampleWithoutGitLab(t *testing.T) {
	o := newOrg(t)
	s := o.want(true)
	r := o.faultyReader(func(*http.Request, string) *http.Response { return answer(403, `{"message":"403 Forbidden"}`) }, nil)
	report, err := r.CheckSample(t.Context(), s, everything(o))
	if err != nil || len(report.Unread) == 0 || len(report.Checked)+len(report.Findings) != 0 {
		t.Errorf("%v, %v", report, err)
	}
	o.sim.SetFaults(gitlabsim.Faults{Down: true})
	if _, err := o.reader(nil).CheckSample(t.Context(), s, everything(o)); err == nil {
		t.Error("no error although GitLab is away")
	}
}

// TestRequestsBound: the cost of a full reading grows with the pages of lists and with the groups that others are
// invited into, not with sources or people. The bound is 300 requests for 10,000 projects.
func TestRequestsBound(t *testing.T) {
	o := newOrg(t)
	for i := range 600 {
		_, err := o.w.AddProject(gitlabsim.Project{NamespaceID: o.id["haw"], Path: fmt.Sprintf("p%d", i), Members: []gitlabsim.Member{{UserID: o.id["bob"], Level: 30}}})
		o.ok(err)
	}
	for i := range 400 {
		o.user(gitlabsim.User{Username: fmt.Sprintf("more%d", i), CreatedAt: time.Date(2020, 1, 1, i, 0, 0, 0, time.UTC)})
	}
	r := o.reader(nil)
	s, err := r.Snapshot(t.Context())
	o.ok(err)
	var total int64
	for _, n := range r.Requests() {
		total += n
	}
	// 606 projects: 7 pages by REST and 7 by GraphQL, which also has the groups and the 420 people; 6 groups with links.
	if len(s.Projects) != 606 || total > 24 {
		t.Errorf("%d projects took %d requests: %v", len(s.Projects), total, r.Requests())
	}
}
