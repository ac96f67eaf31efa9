package gitlab

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// retries decides which requests are repeated, and after which pause. How long GitLab says counts before our own measure.
type retries struct {
	gate *gate
	log  *slog.Logger
	now  func() time.Time
	max  int           // tries after the first one
	wait time.Duration // the first pause
}

// newRetries takes what Options say: 0 is the default, and a negative number of tries none.
func newRetries(tries int, wait time.Duration, a *api) *retries {
	if tries == 0 {
		tries = 4
	}
	if wait <= 0 {
		wait = 500 * time.Millisecond
	}
	return &retries{gate: a.gate, log: a.log, now: a.now, max: max(tries, 0), wait: wait}
}

// idempotent decides for REST: 429 was not processed and is always safe; all else only where a repetition
// can't do anything twice.
func (r *retries) idempotent(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return ended(ctx, resp)
	}
	method := ""
	var ue *url.Error
	switch {
	case resp != nil && resp.Request != nil:
		method = resp.Request.Method
	case errors.As(err, &ue):
		method = strings.ToUpper(ue.Op)
	}
	return retryable(resp, err, method != http.MethodPost && method != http.MethodPatch && method != "") && r.inTime(ctx, resp), nil
}

// query decides for GraphQL, where our queries are POST requests that only read.
func (r *retries) query(ctx context.Context, resp *http.Response, err error) (bool, error) {
	if ctx.Err() != nil {
		return ended(ctx, resp)
	}
	return retryable(resp, err, true) && r.inTime(ctx, resp), nil
}

// inTime reports whether another try begins before the context's deadline. If not, a 429 holds back what comes later all the same.
func (r *retries) inTime(ctx context.Context, resp *http.Response) bool {
	n := 0
	if s := singleOf(ctx); s != nil {
		n = s.tries
		s.tries++
	}
	if !tooLate(ctx, r.pauseAfter(n, resp)) {
		return true
	}
	if resp != nil && resp.StatusCode == http.StatusTooManyRequests {
		r.backoff(0, 0, n, resp)
	}
	return false
}

// ended stops retrying. With an answer at hand it gives no error: client-go would return that and forget to close
// the answer's body.
func ended(ctx context.Context, resp *http.Response) (bool, error) {
	if resp != nil {
		return false, nil
	}
	return false, ctx.Err()
}

func retryable(resp *http.Response, err error, idempotent bool) bool {
	switch {
	case err != nil:
		return (idempotent && !hopeless(err)) || dialFailed(err)
	case resp.StatusCode == http.StatusTooManyRequests:
		return true
	}
	return idempotent && resp.StatusCode >= 500 && resp.StatusCode != http.StatusNotImplemented
}

// pause is the wait before try number n+1 when nobody said how long: doubled each time.
func (r *retries) pause(n int) time.Duration {
	return min(r.wait<<min(n, 10), time.Minute)
}

// backoff is pauseAfter, and after a 429 holds back other requests of the kind as well.
func (r *retries) backoff(_, _ time.Duration, n int, resp *http.Response) time.Duration {
	d := r.pauseAfter(n, resp)
	if resp == nil || resp.StatusCode != http.StatusTooManyRequests {
		return d
	}
	kind := ""
	if resp.Request != nil {
		kind = r.gate.stop(resp.Request, d)
	}
	r.log.Warn("GitLab limits our requests", "endpoint", kind, "wait", d.String())
	return d
}

// pauseAfter honours Retry-After and RateLimit-Reset. GitLab's application limits send neither (facts of GitLab's
// rate_limiter.rb) and count per minute, so without a header the pauses grow until a minute is surely over.
func (r *retries) pauseAfter(n int, resp *http.Response) time.Duration {
	limited := resp != nil && resp.StatusCode == http.StatusTooManyRequests
	if resp != nil {
		if d, ok := retryAfter(resp.Header, r.now()); ok && limited {
			return d
		} else if ok {
			return min(d, time.Minute)
		}
	}
	if !limited {
		return r.pause(n)
	}
	steps := [...]time.Duration{10, 30, 60, 120} // × 500 ms = 5, 15, 30, 60 s
	return min(steps[min(n, len(steps)-1)]*r.wait, time.Minute)
}

// retryAfter reads how long GitLab wants us to wait: at most ten minutes, whatever it says.
func retryAfter(h http.Header, now time.Time) (time.Duration, bool) {
	d := time.Duration(-1)
	if v := h.Get("Retry-After"); v != "" {
		if t, err := http.ParseTime(v); err == nil {
			d = t.Sub(now)
		} else if s, err := time.ParseDuration(v + "s"); err == nil {
			d = s
		}
	} else if v := h.Get("RateLimit-Reset"); v != "" {
		if s, err := time.ParseDuration(v + "s"); err == nil {
			d = time.Unix(int64(s.Seconds()), 0).Sub(now)
		}
	}
	if d < 0 {
		return 0, false
	}
	return min(d, 10*time.Minute), true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
