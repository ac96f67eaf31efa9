package gitlabsim

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

type received struct {
	header  http.Header
	raw     string
	payload map[string]any
}

// sink is a receiver of hooks.
type sink struct {
	*httptest.Server
	mu  sync.Mutex
	got []received
}

func newSink(t *testing.T) *sink {
	t.Helper()
	s := &sink{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		rec := received{header: r.Header.Clone(), raw: string(b)}
		if err := json.Unmarshal(b, &rec.payload); err != nil {
			t.Errorf("hook body: %v", err)
		}
		s.mu.Lock()
		s.got = append(s.got, rec)
		s.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *sink) take() []received {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.got
	s.got = nil
	return out
}

func names(in []received) []string {
	out := []string{}
	for _, r := range in {
		out = append(out, r.payload["event_name"].(string))
	}
	slices.Sort(out)
	return out
}

func TestWhichChangesSendWhichHooks(t *testing.T) {
	f := newFixture(t, nil)
	sink := newSink(t)
	if _, err := f.AddSystemHook(SeedHook{URL: sink.URL, Token: "s3cret"}); err != nil {
		t.Fatal(err)
	}
	w := f.World()
	payloads := map[string]map[string]any{}
	for _, c := range []struct {
		what string
		do   func() error
		want []string
	}{
		{"new user", func() error { _, err := w.AddUser(User{ID: 50, Username: "carol"}); return err }, []string{"user_create"}},
		{"rename user", func() error { return w.RenameUser(50, "caroline") }, []string{"user_rename"}},
		{"block", func() error { return w.SetUserState(50, StateBlocked) }, nil},
		{"unblock", func() error { return w.SetUserState(50, StateActive) }, nil},
		{"admin", func() error { return w.SetUserFlags(50, true, false) }, nil},
		{"new group", func() error { _, err := w.AddGroup(Group{ID: 60, Path: "new", ParentID: 7}); return err }, []string{"group_create"}},
		{"rename group", func() error { return w.RenameGroup(60, "newer", "") }, []string{"group_rename"}},
		{"rename group, name only", func() error { return w.RenameGroup(60, "", "Newest") }, nil},
		{"archive group", func() error { return w.SetGroupArchived(60, true) }, nil},
		{"transfer group", func() error { return w.TransferGroup(60, 9) }, nil},
		{"share group", func() error { return w.ShareGroup(60, 10, Developer, "") }, nil},
		{"unshare group", func() error { return w.UnshareGroup(60, 10) }, nil},
		{"add to group", func() error { return w.SetMember(KindGroup, 60, 50, Maintainer, "") }, []string{"user_add_to_group"}},
		{"change in group", func() error { return w.SetMember(KindGroup, 60, 50, Owner, "") }, []string{"user_update_for_group"}},
		{"custom role only", func() error { return w.SetMemberRole(KindGroup, 60, 50, Owner, "", 3) }, []string{"user_update_for_group"}},
		{"remove from group", func() error { return w.RemoveMember(KindGroup, 60, 50) }, []string{"user_remove_from_group"}},
		{"invite by e-mail", func() error { return w.InviteEmail(KindGroup, 60, Developer) }, nil},
		{"new project", func() error { _, err := w.AddProject(Project{ID: 70, Path: "proj", NamespaceID: 60}); return err }, []string{"project_create"}},
		{"personal project", func() error { _, err := w.AddProject(Project{ID: 71, Path: "own", OwnerID: 41}); return err }, []string{"project_create", "user_add_to_team"}},
		{"add to project", func() error { return w.SetMember(KindProject, 70, 50, Maintainer, "") }, []string{"user_add_to_team"}},
		{"change in project", func() error { return w.SetMember(KindProject, 70, 50, Developer, "") }, []string{"user_update_for_team"}},
		{"remove from project", func() error { return w.RemoveMember(KindProject, 70, 50) }, []string{"user_remove_from_team"}},
		{"archive project", func() error { return w.SetProjectArchived(70, true) }, []string{"project_update"}},
		{"share project", func() error { return w.ShareProject(70, 10, Developer, "") }, nil},
		{"unshare project", func() error { return w.UnshareProject(70, 10) }, nil},
		{"rename project", func() error { return w.RenameProject(70, "proj2", "") }, []string{"project_rename"}},
		{"transfer project", func() error { return w.TransferProject(70, 7) }, []string{"project_transfer"}},
		{"schedule deletion of a project", func() error { return w.MarkProjectForDeletion(70) }, []string{"project_rename"}},
		{"destroy project", func() error { return w.DeleteProject(70) }, []string{"project_destroy"}},
		{"schedule deletion of a group", func() error { return w.MarkGroupForDeletion(60) }, []string{"group_rename"}},
		{"destroy group", func() error { return w.DeleteGroup(60) }, []string{"group_destroy"}},
		{"destroy user", func() error { return w.DeleteUser(50) }, []string{"user_destroy"}},
		{"blocked user logs in", func() error {
			_, err := Login(t.Context(), f.client, f.authorizeURL(nil), "mallory", "mallory-pw")
			if err == nil {
				return fmt.Errorf("mallory logged in")
			}
			return nil
		}, []string{"user_failed_login"}},
		{"refused change", func() error { _ = w.SetMember(KindGroup, 7, 41, 33, ""); return nil }, nil},
		{"variable", func() error { return w.CreateVariable(20, Variable{Key: "K", Value: "v"}) }, nil},
		{"nightly job", func() error {
			if err := w.SetMember(KindGroup, 9, 41, Developer, "2026-11-23"); err != nil {
				return err
			}
			f.clock.add(24 * time.Hour)
			w.RemoveExpired()
			return nil
		}, []string{"user_add_to_group", "user_remove_from_group"}},
	} {
		if err := c.do(); err != nil {
			t.Fatalf("%s: %v", c.what, err)
		}
		f.flush()
		got := sink.take()
		if c.want == nil {
			c.want = []string{}
		}
		equal(t, c.what, names(got), c.want)
		for _, r := range got {
			payloads[r.payload["event_name"].(string)] = r.payload
			for _, k := range []string{"X-Gitlab-Event-Uuid", "X-Gitlab-Webhook-Uuid", "Idempotency-Key", "Webhook-Id", "Webhook-Timestamp"} {
				if r.header.Get(k) == "" {
					t.Errorf("%s: no header %s", c.what, k)
				}
			}
			equal(t, "X-Gitlab-Event", r.header.Get("X-Gitlab-Event"), "System Hook")
			equal(t, "X-Gitlab-Token", r.header.Get("X-Gitlab-Token"), "s3cret")
			equal(t, "X-Gitlab-Instance", r.header.Get("X-Gitlab-Instance"), f.URL())
			equal(t, "webhook-id", r.header.Get("webhook-id"), r.header.Get("Idempotency-Key"))
			equal(t, "signature without a signing token", r.header.Get("webhook-signature"), "")
		}
	}
	t.Run("payloads have exactly the documented keys", func(t *testing.T) {
		dir := filepath.Join(contractData(t), "hooks")
		files, err := os.ReadDir(dir)
		if err != nil || len(files) < 20 {
			t.Fatalf("%d recorded hooks, %v", len(files), err)
		}
		for _, file := range files {
			name := strings.TrimSuffix(file.Name(), ".json")
			if got, ok := payloads[name]; ok {
				want := recorded(t, dir, file.Name()).(map[string]any)
				equal(t, name, sortedKeys(got), sortedKeys(want))
				sameShape(t, name+".", want, got, nil)
			} else if !strings.HasPrefix(name, "key_") && !strings.HasPrefix(name, "user_access_request") && !strings.HasPrefix(name, "gitlab_") && name != "repository_update" {
				t.Errorf("%s was never sent", name)
			}
		}
	})
}

func TestSignedHook(t *testing.T) {
	f := newFixture(t, nil)
	sink := newSink(t)
	key := []byte("0123456789abcdef0123456789abcdef")
	hook := decode[map[string]any](t, f.do("POST", "/api/v4/hooks", "glpat-admin", map[string]any{
		"url": sink.URL, "token": "t",
		"signing_token": "whsec_" + base64.StdEncoding.EncodeToString(key),
	}))
	equal(t, "secrets are write-only", []any{hook["token"], hook["signing_token"], hook["token_present"], hook["signing_token_present"], hook["repository_update_events"]},
		[]any{nil, nil, true, true, true})
	id := fmt.Sprintf("/api/v4/hooks/%v", hook["id"])
	if err := f.World().RenameUser(41, "alicia"); err != nil {
		t.Fatal(err)
	}
	f.flush()
	got := sink.take()[0]
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(got.header.Get("webhook-id") + "." + got.header.Get("webhook-timestamp") + "." + got.raw))
	equal(t, "signature", got.header.Get("webhook-signature"), "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	equal(t, "old_username", got.payload["old_username"], any("alice"))

	equal(t, "test", f.do("POST", id+"/test", "glpat-admin", nil).status, 201)
	equal(t, "test event", sink.take()[0].payload["name"], any("Ruby"))
	equal(t, "an edit without token deletes the secret", decode[map[string]any](t, f.do("PUT", id, "glpat-admin", map[string]any{"name": "x"}))["token_present"], any(false))
	equal(t, "bad URL", f.do("PUT", id, "glpat-admin", map[string]any{"url": "file:///etc/passwd"}).status, 400)
	equal(t, "bad signing token", f.do("POST", "/api/v4/hooks", "glpat-admin", map[string]any{"url": sink.URL, "signing_token": "whsec_c2hvcnQ="}).status, 400)
	equal(t, "delete", f.do("DELETE", id, "glpat-admin", nil).status, 204)
	equal(t, "list", f.do("GET", "/api/v4/hooks", "glpat-admin", nil).body, "[]")
	_ = f.World().RenameUser(41, "alice")
	f.flush()
	equal(t, "after deletion", len(sink.take()), 0)
}

func TestHookPolicyAndLostHooks(t *testing.T) {
	f := newFixture(t, nil)
	sink := newSink(t)
	if _, err := f.AddSystemHook(SeedHook{URL: sink.URL}); err != nil {
		t.Fatal(err)
	}
	f.SetHookPolicy(func(e Event) HookAction {
		switch e.Name {
		case "user_rename":
			return HookAction{Drop: true}
		case "user_create":
			return HookAction{Copies: 1, Delay: 20 * time.Millisecond}
		}
		return HookAction{}
	})
	_ = f.World().RenameUser(41, "alicia")
	if _, err := f.World().AddUser(User{Username: "zoe"}); err != nil {
		t.Fatal(err)
	}
	equal(t, "not yet", len(sink.take()), 0)
	f.flush()
	got := sink.take()
	equal(t, "events", names(got), []string{"user_create", "user_create"})
	equal(t, "one key for both copies", got[0].header.Get("Idempotency-Key"), got[1].header.Get("Idempotency-Key"))
	if got[0].header.Get("X-Gitlab-Event-UUID") == got[1].header.Get("X-Gitlab-Event-UUID") {
		t.Error("a resend keeps X-Gitlab-Event-UUID")
	}
	// Nobody listens: one try, no more.
	sink.Close()
	f.SetHookPolicy(nil)
	_ = f.World().RenameUser(41, "alice")
	f.flush()
	all := f.Deliveries()
	last := all[len(all)-1]
	if last.Event != "user_rename" || last.Status != 0 || last.Err == nil || len(all) != 3 {
		t.Errorf("deliveries %+v", all)
	}
}

func TestCloseCancelsHooks(t *testing.T) {
	f := newFixture(t, nil)
	sink := newSink(t)
	if _, err := f.AddSystemHook(SeedHook{URL: sink.URL}); err != nil {
		t.Fatal(err)
	}
	f.SetHookPolicy(func(Event) HookAction { return HookAction{Delay: time.Hour} })
	_ = f.World().RenameUser(41, "alicia")
	began := time.Now()
	f.Close()
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("Close took %v", d)
	}
	equal(t, "delivered", len(sink.take()), 0)
}

// TestChangesWhileItCloses: a request may still be answered that nobody waits for any more; for the race detector.
func TestChangesWhileItCloses(t *testing.T) {
	f := newFixture(t, nil)
	sink := newSink(t)
	if _, err := f.AddSystemHook(SeedHook{URL: sink.URL}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	changed := make(chan struct{}, 1)
	var changes sync.WaitGroup
	changes.Go(func() {
		for n := 0; ctx.Err() == nil; n++ {
			if err := f.World().RenameUser(41, fmt.Sprint("alice", n)); err != nil {
				t.Error(err)
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	})
	<-changed
	f.Close()
	closed := f.Deliveries()
	<-changed
	<-changed
	<-changed // begun after Close
	cancel()
	changes.Wait()
	if d := len(f.Deliveries()) - len(closed); d != 0 {
		t.Errorf("%d hooks were sent after Close", d)
	}
}
