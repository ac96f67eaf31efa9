package replicas_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// TestARevocationInABurst: a thousand hooks arrive at once, and the one that matters is among the last. It is carried out within
// seconds, also when only that there were hooks is remembered; no round of everything is due.
func TestARevocationInABurst(t *testing.T) {
	w := newWorld(t)
	var group int64
	w.gitlab.World().View(func(v *gitlabsim.View) { group = v.ProjectByPath("haw/world").NamespaceID })
	ids := []int64{}
	for i := range 200 {
		id, err := w.gitlab.World().AddProject(gitlabsim.Project{NamespaceID: group, Path: fmt.Sprintf("p%d", i), Name: "p", Visibility: "private"})
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	a := w.start("a", time.Hour)
	w.eventually("the first round", 60*time.Second, func() bool { return w.has("gitlab-edit", "alice") && w.has("gitlab-view", "bob") })

	w.remove("bob") // GitLab knows of no hook of ours: this test sends it
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	var lost atomic.Int64
	var wg sync.WaitGroup
	send := func(event string, id int64) {
		body := fmt.Sprintf(`{"event_name":%q,"project_id":%d}`, event, id)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+a.hooks+"/hooks/gitlab", strings.NewReader(body))
		if err != nil {
			t.Error(err)
			return
		}
		req.Header.Set("X-Gitlab-Token", "s3cret-of-the-hook")
		resp, err := client.Do(req)
		if err != nil {
			lost.Add(1)
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusNoContent {
			lost.Add(1)
		}
	}
	begun := time.Now()
	for i := range 1000 {
		wg.Go(func() {
			if i == 900 {
				send("user_remove_from_team", w.project)
				return
			}
			send("project_update", ids[i%len(ids)])
		})
	}
	wg.Wait()
	t.Logf("1000 hooks answered after %v, %d lost", time.Since(begun).Round(time.Millisecond), lost.Load())
	if lost.Load() > 0 {
		t.Errorf("%d hooks were not taken", lost.Load())
	}
	w.eventually("bob's right is gone", 30*time.Second, func() bool { return !w.has("gitlab-view", "bob") })
	t.Logf("the revocation is carried out after %v", time.Since(begun).Round(time.Millisecond))

	// What an overflow stores: that something was changed.
	w.remove("alice")
	begun = time.Now()
	box := &store.Inbox{Client: w.admin, Watch: w.admin, Namespace: deploy.Namespace, Logger: slog.New(slog.DiscardHandler), Now: time.Now}
	if err := box.Put(t.Context(), nil, "hook overflow"); err != nil {
		t.Fatal(err)
	}
	w.eventually("alice's right is gone", 30*time.Second, func() bool { return !w.has("gitlab-edit", "alice") })
	t.Logf("the overflow is carried out after %v", time.Since(begun).Round(time.Millisecond))
	w.eventually("the inbox is empty", 30*time.Second, func() bool { return len(w.inbox()) == 0 })
}
