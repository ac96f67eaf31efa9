package gitlab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

// TestOffsetListsThatMove: something that is deleted between two pages moves the later ones forward, so that one is
// never seen. GitLab names no total beyond 10,000 records, where only a second reading tells. A list that is asked for by
// keyset pagination is in the same danger where it comes by numbers: an account that the list of humans lacks has no
// rights.
func TestListsThatMove(t *testing.T) {
	byOffset := func(ctx context.Context, a *api) ([]int64, error) {
		list, err := offset[restHook](ctx, a, "hooks", url.Values{})
		var ids []int64
		for _, h := range list {
			ids = append(ids, h.ID)
		}
		return ids, err
	}
	byKeyset := func(ctx context.Context, a *api) ([]int64, error) {
		list, err := keyset[restHook](ctx, a, "hooks", url.Values{})
		return slices.Collect(maps.Keys(list)), err
	}
	for _, tt := range []struct {
		name    string
		totals  bool
		deletes int // how many answers are followed by a deletion
		err     error
	}{
		{name: "at rest", totals: true},
		{name: "at rest, no total"},
		{name: "one deleted", totals: true, deletes: 1},
		{name: "one deleted, no total", deletes: 1},
		{name: "always moving", totals: true, deletes: 1000, err: errMoving},
	} {
		for name, read := range map[string]func(context.Context, *api) ([]int64, error){"offset": byOffset, "keyset": byKeyset} {
			t.Run(tt.name+"/"+name, func(t *testing.T) {
				list := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20}
				deleted, requests := 0, 0
				server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					page, _ := strconv.Atoi(r.URL.Query().Get("page"))
					page = max(page, 1)
					size, _ := strconv.Atoi(r.URL.Query().Get("per_page"))
					from, to := min((page-1)*size, len(list)), min(page*size, len(list))
					if requests++; tt.totals {
						w.Header().Set("X-Total", strconv.Itoa(len(list)))
					}
					w.Header().Set("X-Page", strconv.Itoa(page))
					w.Header().Set("X-Next-Page", "")
					if to < len(list) {
						w.Header().Set("X-Next-Page", strconv.Itoa(page+1))
					}
					out := []map[string]any{}
					for _, id := range list[from:to] {
						out = append(out, map[string]any{"id": id, "url": "x"})
					}
					_ = json.NewEncoder(w).Encode(out)
					if deleted < tt.deletes && len(list) > 4 {
						list, deleted = slices.Delete(list, 0, 1), deleted+1
					}
				}))
				defer server.Close()
				o := options(t, server.URL, nil)
				o.PageSize = 3
				a, err := newAPI(o)
				if err != nil {
					t.Fatal(err)
				}
				got, err := read(t.Context(), a)
				if !errors.Is(err, tt.err) {
					t.Fatalf("error %v, want %v after %d requests", err, tt.err, requests)
				}
				for _, id := range list {
					if tt.err == nil && !slices.Contains(got, int64(id)) {
						t.Errorf("%d was there all the time and is not in the list %v", id, got)
					}
				}
			})
		}
	}
}

// TestALinkThatIsLost: one answer in the middle of a list comes without the link to the next page, or with a broken one.
func TestALinkThatIsLost(t *testing.T) {
	o := newOrg(t)
	for _, tt := range []struct {
		path, link string
		at         int
	}{
		{path: "/api/v4/projects", at: 2},
		{path: "/api/v4/projects", at: 1, link: "junk"},
		{path: "/api/v4/users", at: 3},
		{path: "/api/v4/users?humans", at: 3},
		{path: "/api/v4/users?humans", at: 1, link: "junk"},
	} {
		seen := 0
		got, err := o.reader(func(op *Options) {
			inner := op.HTTPClient.Transport
			op.RESTOnly, op.PageSize = true, 2
			op.HTTPClient = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
				resp, err := inner.RoundTrip(r)
				list, filter, _ := strings.Cut(tt.path, "?")
				if err == nil && r.URL.Path == list && r.URL.Query().Has("humans") == (filter != "") && resp.Header.Get("Link") != "" {
					if seen++; seen == tt.at {
						resp.Header.Set("Link", tt.link)
					}
				}
				return resp, err
			})}
		}).Snapshot(t.Context())
		if err != nil || seen < tt.at {
			t.Fatal(err, seen)
		}
		t.Run(fmt.Sprint(tt), func(t *testing.T) { o.keeps(t, got) })
	}
}

// TestTotalThatNeverFits: a list that is always shorter than GitLab says is not the whole one, also when it is empty.
func TestTotalThatNeverFits(t *testing.T) {
	for _, body := range []string{`[]`, `[{"id":1}]`} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Total", "2")
			fmt.Fprint(w, body)
		}))
		a, err := newAPI(options(t, server.URL, nil))
		if err != nil {
			t.Fatal(err)
		}
		if got, err := offset[restHook](t.Context(), a, "hooks", url.Values{}); !errors.Is(err, errMoving) {
			t.Errorf("%s: %v, %v", body, got, err)
		}
		server.Close()
	}
}

// TestTotalThatDoesNotFitOnOnePage: GitLab says there are more than it sent. The list is read again.
func TestTotalThatDoesNotFitOnOnePage(t *testing.T) {
	n := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Total", "2")
		if n++; n == 1 {
			fmt.Fprint(w, `[{"id":1}]`)
			return
		}
		fmt.Fprint(w, `[{"id":1},{"id":2}]`)
	}))
	defer server.Close()
	a, err := newAPI(options(t, server.URL, nil))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := offset[restHook](t.Context(), a, "hooks", url.Values{}); err != nil || len(got) != 2 {
		t.Errorf("%v, %v", got, err)
	}
}

// TestEveryDocumentedEvent: each event of GitLab's list is about one source, or ignored; none is refused.
func TestEveryDocumentedEvent(t *testing.T) {
	g, p, u := authz.GroupID(78), authz.ProjectID(74), authz.UserID(41)
	for name, want := range map[string]authz.SourceID{
		"group_create": g, "group_destroy": g, "group_rename": g, "user_add_to_group": g, "user_remove_from_group": g, "user_update_for_group": g,
		"project_create": p, "project_destroy": p, "project_rename": p, "project_transfer": p, "project_update": p,
		"user_add_to_team": p, "user_remove_from_team": p, "user_update_for_team": p,
		"user_create": u, "user_destroy": u, "user_rename": u, "user_failed_login": u,
		"key_create": {}, "key_destroy": {}, "repository_update": {}, "push": {}, "tag_push": {}, "merge_request": {},
		"user_access_request_revoked_for_group": {}, "user_access_request_revoked_for_project": {},
		"user_access_request_to_group": {}, "user_access_request_to_project": {},
		"gitlab_subscription_member_approval": {}, "gitlab_subscription_member_approvals": {},
	} {
		for _, key := range []string{"event_name", "object_kind"} {
			e, err := ParseSystemHook(fmt.Appendf(nil, `{%q:%q,"group_id":78,"project_id":74,"user_id":41,"access_level":"Maintainer","owners":[{"name":"x"}]}`, key, name))
			if err != nil || e.Name != name || e.Ignored != (want == authz.SourceID{}) || (!e.Ignored && (len(e.Changed) != 1 || e.Changed[0] != want)) {
				t.Errorf("%s %s: %+v, %v; want %s", key, name, e, err, want)
			}
		}
	}
}

// TestRegisterFindsItsHookOnAnyPage: a second hook of the same URL would send everything twice.
func TestRegisterFindsItsHookOnAnyPage(t *testing.T) {
	o := newOrg(t)
	for i := range 25 { // GitLab's pages have 20 when nobody asks for more
		if _, err := o.sim.AddSystemHook(gitlabsim.SeedHook{URL: fmt.Sprintf("http://127.0.0.1:1/%d", i), Token: "x"}); err != nil {
			t.Fatal(err)
		}
	}
	opts := o.options()
	token := o.sim.TokenFor("root", "api")
	opts.Token, opts.PageSize = func() (string, error) { return token, nil }, 4
	reg, err := NewHookRegistrar(opts)
	o.ok(err)
	var got []bool
	for range 2 {
		created, err := reg.Register(t.Context(), "https://integrator.example.com/hooks/gitlab", "hook-secret", true, us)
		o.ok(err)
		got = append(got, created)
	}
	if d := cmp.Diff([]bool{true, false}, got); d != "" {
		t.Errorf("created (-want +got)\n%s", d)
	}
}
