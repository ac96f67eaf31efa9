package gitlabsim

import (
	"bytes"
	"context"
	"maps"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Faults says what goes wrong. The zero value is a healthy GitLab.
type Faults struct {
	// Down resets every TCP connection, old and new. The port stays ours.
	Down bool
	// Latency is added to every request.
	Latency time.Duration
	// Rules are tried in order; the first one that matches and strikes decides.
	Rules []FaultRule
}

// FaultRule is one fault of some requests.
type FaultRule struct {
	Method      string  // "" = any
	PathPrefix  string  // of the escaped path, e.g. "/api/v4/groups/7/members"; "" = any
	Path        string  // the escaped path or one above it: "/api/v4/groups/7" is also ".../7/members", not ".../70"; "" = any
	Probability float64 // 0 = always
	Count       int     // strikes only so often; 0 = without end

	// What happens (Latency combines with the others):
	Latency      time.Duration
	Hang         bool // no answer until the client gives up; SetFaults and Close break the connection
	Status       int  // answers with this status and Body
	Body         string
	Header       http.Header
	TruncateBody bool // sends the first half of the real answer, then breaks the connection
	Close        bool // breaks the connection without an answer
	LoseAnswer   bool // does the work, then breaks the connection: the client can't know
}

type faultState struct {
	listen *listener // set before the first request
	mu     sync.Mutex
	faults Faults
	struck []int
	newer  chan struct{} // closed when other faults have come
	random *rand.Rand
	ctx    context.Context // ends waiting requests on Close; owned by the server
	cancel context.CancelFunc
}

func newFaultState() *faultState {
	f := &faultState{random: rand.New(rand.NewPCG(1, 2)), newer: make(chan struct{})}
	f.ctx, f.cancel = context.WithCancel(context.Background())
	return f
}

func (f *faultState) stop() { f.cancel() }

// SetFaults replaces all faults. Counts start anew, and what hung is broken off.
func (f *faultState) SetFaults(faults Faults) {
	f.mu.Lock()
	close(f.newer)
	f.newer = make(chan struct{})
	f.faults = faults
	f.struck = make([]int, len(faults.Rules))
	f.mu.Unlock()
	f.listen.setDown(faults.Down)
}

// matches reports whether the rule is about a request.
func (rule FaultRule) matches(r *http.Request) bool {
	path := r.URL.EscapedPath()
	below, isPrefix := strings.CutPrefix(path, rule.Path)
	return (rule.Method == "" || rule.Method == r.Method) && strings.HasPrefix(path, rule.PathPrefix) &&
		(rule.Path == "" || isPrefix && (below == "" || below[0] == '/'))
}

// choose returns how long a request waits, what happens to it then, and what is closed when other faults come.
func (f *faultState) choose(r *http.Request) (time.Duration, FaultRule, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i, rule := range f.faults.Rules {
		if !rule.matches(r) {
			continue
		}
		if rule.Count > 0 && f.struck[i] >= rule.Count {
			continue
		}
		if rule.Probability > 0 && f.random.Float64() >= rule.Probability {
			continue
		}
		f.struck[i]++
		return f.faults.Latency + rule.Latency, rule, f.newer
	}
	return f.faults.Latency, FaultRule{}, f.newer
}

// withFaults lets h answer, or what goes wrong instead.
func (f *faultState) withFaults(w http.ResponseWriter, r *http.Request, h http.Handler) {
	wait, rule, newer := f.choose(r)
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		case <-f.ctx.Done():
			panic(http.ErrAbortHandler)
		}
	}
	switch {
	case rule.Hang:
		select {
		case <-newer:
		case <-r.Context().Done():
		case <-f.ctx.Done():
		}
		panic(http.ErrAbortHandler)
	case rule.Close:
		panic(http.ErrAbortHandler)
	case rule.LoseAnswer:
		h.ServeHTTP(&recorder{header: http.Header{}}, r)
		panic(http.ErrAbortHandler)
	case rule.Status != 0:
		maps.Copy(w.Header(), rule.Header)
		w.WriteHeader(rule.Status)
		_, _ = w.Write([]byte(rule.Body))
	case rule.TruncateBody:
		rec := &recorder{header: w.Header()}
		h.ServeHTTP(rec, r)
		w.Header().Set("Content-Length", strconv.Itoa(rec.body.Len()))
		w.WriteHeader(max(rec.status, http.StatusOK))
		_, _ = w.Write(rec.body.Bytes()[:rec.body.Len()/2])
		if fl, ok := w.(http.Flusher); ok {
			fl.Flush()
		}
		panic(http.ErrAbortHandler)
	default:
		h.ServeHTTP(w, r)
	}
}

type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header         { return r.header }
func (r *recorder) WriteHeader(status int)      { r.status = status }
func (r *recorder) Write(p []byte) (int, error) { return r.body.Write(p) }
