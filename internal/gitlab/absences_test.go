package gitlab

import (
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// TestOnlyGitLabsOwn404IsEvidence: whatever answers 404 in other words takes nothing away, however often it does and
// whatever is asked.
func TestOnlyGitLabsOwn404IsEvidence(t *testing.T) {
	o := newOrg(t)
	base := o.want(true)
	ids := []authz.SourceID{authz.GroupID(o.id["world"]), authz.ProjectID(o.id["app"]), authz.UserID(o.id["bob"])}
	for _, tt := range []struct {
		body string
		own  bool
	}{
		{body: "<html><h1>404 Not Found</h1></html>"},
		{body: ""},
		{body: "null"},
		{body: `{"error":"404 Not Found"}`}, // a route that this version does not have
		{body: `{"message":"no Route matched with those values"}`},
		{body: `{"message":{"id":["404 Not Found"]}}`},
		{body: `{"message":"404 Project Not Found"}` + "<html>"},
		{own: true, body: `{"message":"404 Project Not Found"}`},
		{own: true, body: `{"message":"404 Group Not Found"}`},
		{own: true, body: `{"message":"404 User Not Found"}`},
		{own: true, body: `{"message":"404 Not found"}`},
	} {
		for _, id := range ids {
			r := o.faultyReader(func(r *http.Request, body string) *http.Response {
				if strings.Contains(body, "query Accounts") { // GraphQL leaves out what does not exist
					return answer(200, `{"data":{"users":{"nodes":[]}}}`)
				}
				if strings.HasPrefix(r.URL.Path, "/api/v4/"+sourcePath(id)) {
					resp := answer(404, tt.body)
					resp.Header.Set(ownHeader, "yes") // nobody else can say so
					return resp
				}
				return nil
			}, nil)
			r.absences.pause = 0
			got, err := r.Refresh(t.Context(), base, []authz.SourceID{id})
			if err != nil {
				t.Fatal(err)
			}
			if got.Contains(id) == tt.own || (got.Missing[id] == "") != tt.own {
				t.Errorf("%s of %s: it is there: %v, missing %q", tt.body, id, got.Contains(id), got.Missing[id])
			}
			if exists, err := r.Exists(t.Context(), id); exists || (err == nil) != tt.own {
				t.Errorf("%s of %s: exists %v, %v", tt.body, id, exists, err)
			}
			if id.Kind != authz.UserSource {
				if l, err := r.MemberLevel(t.Context(), id, o.id["carol"]); l != 0 || (err == nil) != tt.own {
					t.Errorf("%s of %s: level %d, %v", tt.body, id, l, err)
				}
			}
		}
	}
}

// TestASecondLookAfterAPause: GitLab's 404s count when the first of them is some seconds old and nothing else was answered in
// between, or at once if a hook says the same. A reading never waits for it.
func TestASecondLookAfterAPause(t *testing.T) {
	o := newOrg(t)
	base := o.want(true)
	deep, lib := authz.GroupID(o.id["deep"]), authz.ProjectID(o.id["lib"])
	now := time.Now()
	gone := true
	r := o.faultyReader(func(r *http.Request, _ string) *http.Response {
		for _, id := range []authz.SourceID{deep, lib} {
			if gone && strings.HasPrefix(r.URL.Path, "/api/v4/"+sourcePath(id)) {
				return answer(404, `{"message":"404 Not Found"}`)
			}
		}
		return nil
	}, func(op *Options) { op.Now = func() time.Time { return now } })
	look := func(after time.Duration, want bool) {
		t.Helper()
		now = now.Add(after)
		got, err := r.Refresh(t.Context(), base, []authz.SourceID{deep})
		if err != nil {
			t.Fatal(err)
		}
		if got.Contains(deep) != want || got.Contains(lib) != want || (got.Missing[deep] == "") != (!want || !gone) {
			t.Errorf("group %v, project %v, missing %v; want them there: %v", got.Contains(deep), got.Contains(lib), got.Missing, want)
		}
	}
	look(0, true)
	look(secondLook-time.Millisecond, true)
	gone = false
	look(time.Second, true) // it is there: the look before was an accident
	gone = true
	look(time.Second, true)
	look(secondLook, false) // with all that was in it
	look(time.Second, true) // a new story
	r.Deleted(deep)
	look(0, false)
	r.Deleted(deep)
	look(2*keepAbsences, true) // forgotten
}

// TestGraphQLThatFailsForGood: REST is used for this reading, and the reason is reported as it is.
func TestGraphQLThatFailsForGood(t *testing.T) {
	o := newOrg(t)
	for _, status := range []int{500, 502, 503, 504, 520} {
		for _, from := range []string{"query Probe", "query Schema", "query Sync"} {
			var log strings.Builder
			down, failing, queries := true, false, 0
			r := o.faultyReader(func(r *http.Request, body string) *http.Response {
				if r.URL.Path != "/api/graphql" {
					return nil
				}
				if failing = failing || strings.Contains(body, from); down && failing {
					queries++
					return answer(status, "<html>it does not work</html>")
				}
				return nil
			}, func(op *Options) { op.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			got, err := r.Snapshot(t.Context())
			if err != nil {
				t.Fatalf("%d from %s on: %v", status, from, err)
			}
			if d := diff(o.want(true), got); d != "" {
				t.Errorf("%d from %s on (-GitLab +read)\n%s", status, from, d)
			}
			if queries > 40 || !strings.Contains(log.String(), ErrFailing.Error()[:20]) || strings.Contains(log.String(), "limits our requests") {
				t.Errorf("%d from %s on: %d queries, log: %s", status, from, queries, log.String())
			}
			if _, _, err := r.States(t.Context(), []int64{o.id["bob"]}); err != nil {
				t.Errorf("%d from %s on: states: %v", status, from, err)
			}
			down = false
			before := r.Requests()["graphql"]
			if _, err := r.Snapshot(t.Context()); err != nil || r.Requests()["graphql"]-before < 3 {
				t.Errorf("%d from %s on: GraphQL works again and is not used: %v, %v", status, from, err, r.Requests())
			}
		}
	}
}
