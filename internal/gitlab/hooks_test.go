package gitlab

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

func TestParseSystemHook(t *testing.T) {
	for _, tt := range []struct {
		body string
		want Event
		err  string
	}{
		{body: `{"event_name":"user_add_to_group","group_access":"Maintainer","group_id":78,"user_id":41}`, want: Event{Name: "user_add_to_group", Changed: []authz.SourceID{authz.GroupID(78)}}},
		{body: `{"event_name":"user_update_for_group","group_id":78,"user_id":41}`, want: Event{Name: "user_update_for_group", Changed: []authz.SourceID{authz.GroupID(78)}}},
		{body: `{"event_name":"user_remove_from_group","group_id":78,"user_id":41}`, want: Event{Name: "user_remove_from_group", Changed: []authz.SourceID{authz.GroupID(78)}}},
		{body: `{"event_name":"user_add_to_team","access_level":"Maintainer","project_id":74,"user_id":41}`, want: Event{Name: "user_add_to_team", Changed: []authz.SourceID{authz.ProjectID(74)}}},
		{body: `{"event_name":"user_remove_from_team","project_id":74,"user_id":41}`, want: Event{Name: "user_remove_from_team", Changed: []authz.SourceID{authz.ProjectID(74)}}},
		{body: `{"event_name":"project_transfer","project_id":73,"project_namespace_id":23}`, want: Event{Name: "project_transfer", Changed: []authz.SourceID{authz.ProjectID(73)}}},
		{body: `{"event_name":"group_rename","group_id":64,"full_path":"parent-group/better-name"}`, want: Event{Name: "group_rename", Changed: []authz.SourceID{authz.GroupID(64)}}},
		{body: `{"event_name":"user_failed_login","user_id":26,"state":"blocked"}`, want: Event{Name: "user_failed_login", Changed: []authz.SourceID{authz.UserID(26)}}},
		{body: `{"event_name":"project_destroy","project_id":73}`, want: Event{Name: "project_destroy", Changed: []authz.SourceID{authz.ProjectID(73)}, Deleted: true}},
		{body: `{"event_name":"user_access_request_to_group","group_id":78}`, want: Event{Name: "user_access_request_to_group", Ignored: true}},
		{body: `{"event_name":"key_create","id":4}`, want: Event{Name: "key_create", Ignored: true}},
		{body: `{"event_name":"of_tomorrow","group_id":{"x":1}}`, want: Event{Name: "of_tomorrow", Ignored: true}},
		{body: `{"object_kind":"push","project_id":15}`, want: Event{Name: "push", Ignored: true}},
		{body: `{"object_kind":"gitlab_subscription_member_approval","action":"enqueue","user_id":42}`, want: Event{Name: "gitlab_subscription_member_approval", Ignored: true}},
		{body: `{"event_name":"user_add_to_group","user_id":41}`, err: "names no group id"},
		{body: `{"event_name":"group_create","group_id":-1}`, err: "names no group id"},
		{body: `{"event_name":"group_create","group_id":"7; DROP"}`, err: "not numbers"},
		{body: `{"event_name":"project_create","project_id":1e99}`, err: "not numbers"},
		{body: `{"hello":"world"}`, err: "neither event_name nor object_kind"},
		{body: `[1,2]`, err: "not a JSON object"},
		{body: `{"event_name":`, err: "not a JSON object"},
		{body: ``, err: "not a JSON object"},
	} {
		got, err := ParseSystemHook([]byte(tt.body))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%s: error %v, want one with %q", tt.body, err, tt.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tt.body, err)
		} else if d := cmp.Diff(tt.want, got); d != "" {
			t.Errorf("%s: (-want +got)\n%s", tt.body, d)
		}
	}
}

// TestParseSystemHookDocumented takes the example payloads of GitLab's documentation where they are at hand.
func TestParseSystemHookDocumented(t *testing.T) {
	files, err := filepath.Glob("../../../shared/gitlab-contract/hooks/*.json")
	if err != nil || len(files) == 0 {
		t.Skip("the documented payloads are not here")
	}
	want := map[string]authz.SourceID{
		"group_create": authz.GroupID(78), "group_destroy": authz.GroupID(78), "group_rename": authz.GroupID(64),
		"user_add_to_group": authz.GroupID(78), "user_update_for_group": authz.GroupID(78), "user_remove_from_group": authz.GroupID(78),
		"user_add_to_team": authz.ProjectID(74), "user_update_for_team": authz.ProjectID(74), "user_remove_from_team": authz.ProjectID(74),
		"project_create": authz.ProjectID(74), "project_update": authz.ProjectID(74), "project_destroy": authz.ProjectID(73),
		"project_rename": authz.ProjectID(73), "project_transfer": authz.ProjectID(73),
		"user_create": authz.UserID(41), "user_destroy": authz.UserID(41), "user_rename": authz.UserID(58), "user_failed_login": authz.UserID(26),
	}
	seen := 0
	for _, f := range files {
		body, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(filepath.Base(f), ".json")
		e, err := ParseSystemHook(body)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		id, rights := want[name]
		if rights != !e.Ignored || (rights && (len(e.Changed) != 1 || e.Changed[0] != id)) {
			t.Errorf("%s: %+v, want %v", name, e, id)
		}
		if rights {
			seen++
		}
	}
	if seen != len(want) {
		t.Errorf("saw %d events about rights, want %d", seen, len(want))
	}
}

func FuzzParseSystemHook(f *testing.F) {
	f.Add([]byte(`{"event_name":"user_add_to_group","group_id":78,"user_id":41}`))
	f.Add([]byte(`{"object_kind":"push"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := ParseSystemHook(body)
		if err != nil {
			return
		}
		if e.Ignored == (len(e.Changed) == 1) || e.Name == "" {
			t.Errorf("%q: %+v: an event is ignored or names one source", body, e)
		}
		for _, id := range e.Changed {
			if id.ID <= 0 {
				t.Errorf("%q: id %d", body, id.ID)
			}
		}
	})
}
