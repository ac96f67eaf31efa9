package gitlab_test

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
)

// TestFarTooManyHooksAskForEverything: when more wait than can be kept one by one, those beyond are taken as a request for
// everything. Only twice as many are refused. Requests without proof count for nothing.
func TestFarTooManyHooksAskForEverything(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const queue = 2048
		var single, whole, all, refused, strange atomic.Int64
		release := make(chan struct{})
		over := map[string]int{}
		var mu sync.Mutex
		h := &gitlab.Hook{
			Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now,
			Trigger: func(_ context.Context, changed []authz.SourceID, _ string) error {
				if len(changed) == 0 {
					whole.Add(1)
				} else {
					single.Add(1)
				}
				<-release
				return nil
			},
			OverLimit: func(outcome string) { mu.Lock(); defer mu.Unlock(); over[outcome]++ },
			Logger:    slog.New(slog.DiscardHandler),
		}
		var wg sync.WaitGroup
		send := func(token string) {
			wg.Go(func() {
				r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader("{}"))
				r.Header.Set("X-Gitlab-Token", token)
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				switch w.Code {
				case http.StatusNoContent:
					all.Add(1)
				case http.StatusServiceUnavailable:
					refused.Add(1)
				case http.StatusUnauthorized:
					strange.Add(1)
				}
			})
		}
		for range 3 * queue {
			send("wrong")
		}
		for range 2*queue + 10 {
			send("s")
		}
		synctest.Wait()
		if single.Load() != queue || whole.Load() != queue || refused.Load() != 10 || strange.Load() != 3*queue {
			t.Errorf("%d taken one by one, %d as everything, %d refused, %d without proof", single.Load(), whole.Load(), refused.Load(), strange.Load())
		}
		close(release)
		wg.Wait()
		if all.Load() != 2*queue || over[gitlab.OverReadAll] != queue || over[gitlab.OverRefused] != 10 {
			t.Errorf("%d answered 204; counted %v", all.Load(), over)
		}
		send("s")
		wg.Wait()
		if single.Load() != queue+1 {
			t.Error("afterwards a hook is not taken for itself")
		}
	})
}

// TestBodiesOfHooksAreBounded: of large bodies that don't come, only so many bytes are waited for at a time. A hook that
// finds no room is not refused, but asks for everything, in GitLab's time; with room again it is read.
func TestBodiesOfHooksAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var single, whole atomic.Int64
		h := &gitlab.Hook{
			Secret: func() ([]byte, error) { return []byte("s"), nil }, Parse: parseHook, Now: time.Now,
			Trigger: func(_ context.Context, changed []authz.SourceID, _ string) error {
				if len(changed) == 0 {
					whole.Add(1)
				} else {
					single.Add(1)
				}
				return nil
			},
			Logger: slog.New(slog.DiscardHandler),
		}
		send := func(body io.Reader, length int64) int {
			r := httptest.NewRequest(http.MethodPost, "/", body)
			r.ContentLength = length
			r.Header.Set("X-Gitlab-Token", "s")
			w := httptest.NewRecorder()
			h.ServeHTTP(w, r)
			return w.Code
		}
		var wg sync.WaitGroup
		var ends []*io.PipeWriter
		for i := range 32 {
			body, end := io.Pipe()
			ends = append(ends, end)
			wg.Go(func() { send(body, []int64{-1, 1 << 20, 5 << 20}[i%3]) })
		}
		synctest.Wait()
		begun := time.Now()
		if code := send(strings.NewReader("{}"), 2); code != http.StatusNoContent || whole.Load() != 1 || single.Load() != 0 {
			t.Errorf("answered %d; %d asked for everything, %d for one thing", code, whole.Load(), single.Load())
		}
		if took := time.Since(begun); took > 5*time.Second {
			t.Errorf("after %v", took)
		}
		for _, e := range ends {
			e.CloseWithError(io.ErrUnexpectedEOF)
		}
		wg.Wait()
		if code := send(strings.NewReader("{}"), 2); code != http.StatusNoContent || single.Load() != 1 {
			t.Errorf("with room again: answered %d, %d asked for one thing", code, single.Load())
		}
	})
}
