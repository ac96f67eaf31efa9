package gitlab

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestMemberShapes: rows of members as GitLab 15 to 19 answers them. What a level gives is not decided here: also one
// that nobody knows yet is handed on, and becomes a finding and no right.
func TestMemberShapes(t *testing.T) {
	day := authz.Date{Year: 2026, Month: time.March, Day: 1}
	for _, tt := range []struct {
		name, json string
		want       authz.Member
		none, bad  bool
	}{
		{name: "15: no created_by, no membership_state", json: `{"id":7,"username":"ann","name":"Ann","state":"active","avatar_url":null,"web_url":"x","access_level":40,"created_at":"2020-01-01T00:00:00Z","expires_at":null}`, want: authz.Member{User: 7, Level: authz.Maintainer}},
		{name: "16: locked, membership_state", json: `{"id":7,"username":"ann","state":"active","locked":false,"access_level":30,"expires_at":"2026-03-01","membership_state":"active","email":"a@b"}`, want: authz.Member{User: 7, Level: authz.Developer, Expires: day}},
		{name: "17: Planner", json: `{"id":7,"access_level":15,"expires_at":null,"group_saml_identity":null,"member_role":null}`, want: authz.Member{User: 7, Level: authz.Planner}},
		{name: "17: custom role on Developer", json: `{"id":7,"access_level":30,"member_role":{"id":3,"name":"deployer","base_access_level":30,"admin_cicd_variables":true}}`, want: authz.Member{User: 7, Level: authz.Developer}},
		{name: "18: expiry as a time", json: `{"id":7,"access_level":50,"expires_at":"2026-03-01T00:00:00.000Z","is_using_seat":true}`, want: authz.Member{User: 7, Level: authz.Owner, Expires: day}},
		{name: "19: Security Manager", json: `{"id":7,"access_level":25,"key":null,"public_email":"","created_by":{"id":1}}`, want: authz.Member{User: 7, Level: authz.SecurityManager}},
		{name: "Admin, which is no level of a membership", json: `{"id":7,"access_level":60}`, want: authz.Member{User: 7, Level: 60}},
		{name: "a level of tomorrow", json: `{"id":7,"access_level":45}`, want: authz.Member{User: 7, Level: 45}},
		{name: "Minimal access", json: `{"id":7,"access_level":5}`, none: true},
		{name: "No access, where sharing is locked", json: `{"id":7,"access_level":0}`, none: true},
		{name: "a pending invitation", json: `{"id":null,"access_level":40,"invite_email":"x@y"}`, none: true},
		{name: "no id", json: `{"access_level":40}`, bad: true},
		{name: "no id and no invitation", json: `{"id":null,"access_level":40}`, bad: true},
		{name: "id 0", json: `{"id":0,"access_level":40}`, bad: true},
		{name: "no access_level", json: `{"id":7,"username":"ann","state":"active"}`, bad: true},
		{name: "access_level null", json: `{"id":7,"access_level":null}`, bad: true},
		{name: "a negative access_level", json: `{"id":7,"access_level":-1}`, bad: true},
		{name: "an expiry that nobody understands", json: `{"id":7,"access_level":40,"expires_at":"soon"}`, bad: true},
	} {
		var m restMember
		if err := json.Unmarshal([]byte(tt.json), &m); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		got, ok, err := m.row()
		if (err != nil) != tt.bad || ok == (tt.none || tt.bad) {
			t.Errorf("%s: %v, %v", tt.name, ok, err)
		}
		if d := cmp.Diff(tt.want, got); d != "" && ok {
			t.Errorf("%s (-want +got)\n%s", tt.name, d)
		}
	}
}

// TestUnknownLevelIsNoRight: whatever GitLab adds, nobody gets a right by a level this program does not know, and an
// administrator hears of it. Levels 15 and 25 are no steps of a ladder.
func TestUnknownLevelIsNoRight(t *testing.T) {
	policy, err := authz.NewPolicy(authz.PolicyConfig{Roles: authz.DefaultRoles(), Kinds: []authz.SourceKind{authz.GroupSource}})
	if err != nil {
		t.Fatal(err)
	}
	for level, want := range map[authz.Level]struct {
		role    string
		finding bool
	}{15: {}, 20: {}, 25: {}, 30: {"view", false}, 35: {"", true}, 40: {"edit", false}, 45: {"", true}, 50: {"edit", false}, 60: {"", true}, 1000: {"", true}} {
		s := &authz.Snapshot{
			Users:  map[int64]authz.User{7: {ID: 7, State: authz.StateActive, Human: true}},
			Groups: map[int64]authz.Group{1: {ID: 1, Path: "haw", Members: []authz.Member{{User: 7, Level: level}}}},
		}
		grants, findings := policy.Grants(s, policy.Sources(s), time.Now())
		role := ""
		if len(grants) > 0 {
			role = grants[0].ClusterRole
		}
		if role != want.role || (len(findings) == 1 && findings[0].Code == "unknown_level") != want.finding {
			t.Errorf("level %d gives %q, findings %v", level, role, findings)
		}
	}
}

// TestLinkShapes: an invitation that does not tell whom, or up to which level, is not the end of one.
func TestLinkShapes(t *testing.T) {
	for in, bad := range map[string]bool{
		`[]`: false,
		`[{"group_id":3,"group_access_level":30,"expires_at":null}]`: false,
		`[{"group_id":3}]`:                         true,
		`[{"group_access_level":30}]`:              true,
		`[{"group_id":0,"group_access_level":30}]`: true,
		`[{}]`: true,
		`[{"group_id":3,"group_access_level":30,"expires_at":"for now"}]`: true,
	} {
		var ls []restLink
		if err := json.Unmarshal([]byte(in), &ls); err != nil {
			t.Fatal(err)
		}
		if _, err := links(ls); (err != nil) != bad {
			t.Errorf("%s: %v", in, err)
		}
	}
}
