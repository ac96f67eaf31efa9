package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabsim"
)

const (
	// clientID is the application of configTemplate.
	clientID = "bench"
	// leastTries is how often drift and hooks are tried at least; the slowest counts.
	leastTries = 5
)

// hanging is what is measured while a part of GitLab hangs.
type hanging struct {
	b      *bench
	c      *cluster
	p      *serve
	k      hangKind
	s      *stage
	prober *prober
	names  map[authz.SourceID]string
	login  *http.Client
	limit  time.Duration // of waiting

	mu      sync.Mutex
	changes []*change
	lie     string // the greatest lie of staleness_seconds
	lied    time.Duration
}

// change is something that GitLab says, and since when; applied is when the cluster followed.
type change struct {
	what        string
	account     bool // the state of an account, not a membership
	present     bool // of somebody who has logged in lately
	at, applied time.Time
}

// hangOne measures one kind, with a fresh process.
func hangOne(ctx context.Context, b *bench, c *cluster, k hangKind, s *stage) error {
	p, err := startServe(ctx, b.gitlab, c, setup{
		binary: b.o.binary, dir: filepath.Join(b.o.dir, "serve-"+k.name), interval: k.interval,
		concurrency: b.o.concurrency, delivery: "none", extra: b.o.extra,
	})
	if err != nil {
		return err
	}
	defer p.stop()
	defer b.gitlab.SetFaults(gitlabsim.Faults{})
	if err := p.ready(ctx, c); err != nil {
		return err
	}
	h := &hanging{b: b, c: c, p: p, k: k, s: s, limit: b.o.hangFor}
	if k.name == wholeGitLab {
		h.limit /= 2 // what needs GitLab can't happen
	}
	if h.names, err = c.namespaces(ctx); err != nil {
		return err
	}
	if h.prober, err = newProber(c); err != nil {
		return err
	}
	defer h.prober.client.CloseIdleConnections()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(p.ca)
	h.login = &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}}
	defer h.login.CloseIdleConnections()
	return h.measure(ctx)
}

// measure lets the part of GitLab hang, leads the program there, and looks what else it does.
func (h *hanging) measure(ctx context.Context) error {
	w, s := h.b.gitlab.World(), h.s
	token, err := h.b.gitlab.MintUserIDToken(s.blocked, clientID, gitlabsim.TokenOptions{Lifetime: time.Hour})
	if err != nil {
		return err
	}
	if in, err := h.admitted(ctx, token); err != nil || !in {
		return errors.Join(errors.New("a user can't log in while GitLab is well"), err)
	}
	h.b.gitlab.SetFaults(gitlabsim.Faults{Rules: []gitlabsim.FaultRule{h.k.rule(s)}})

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	beside, besideCtx := errgroup.WithContext(ctx) // until the measurements are over
	beside.Go(func() error { return h.lead(besideCtx, w) })
	beside.Go(func() error { return h.watchStaleness(besideCtx) })
	if err := pause(ctx, 3*time.Second); err != nil { // so that it hangs when the others come
		return err
	}
	var block, removal, drift, hook time.Duration
	over := make(chan struct{})
	both, bothCtx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		block, err = h.carried(bothCtx, change{what: "a block", account: true, present: true}, s.blocked, s.away[0], token,
			func() error { return w.SetUserState(s.blocked, gitlabsim.StateBlocked) })
		return err
	})
	both.Go(func() (err error) {
		removal, err = h.carried(bothCtx, change{what: "a removal"}, s.removed, s.away[1], "",
			func() error { return w.RemoveMember(gitlabsim.KindProject, s.away[1], s.removed) })
		return err
	})
	others, othersCtx := errgroup.WithContext(ctx)
	others.Go(func() (err error) { drift, err = h.slowest(othersCtx, over, h.drift); return err })
	others.Go(func() (err error) { hook, err = h.slowest(othersCtx, over, h.hook); return err })
	err = both.Wait()
	close(over)
	err = errors.Join(err, others.Wait())
	cancel()
	if failed := beside.Wait(); !errors.Is(failed, context.Canceled) {
		err = errors.Join(err, failed)
	}
	if err != nil {
		return err
	}
	h.report(block, removal, drift, hook)
	return nil
}

// report prints the lines, with the bars beside.
func (h *hanging) report(block, removal, drift, hook time.Duration) {
	line := func(name string, took, bar time.Duration) {
		beside := fmt.Sprintf("s (bar %v)", bar.Seconds())
		if took >= h.limit {
			beside += ", not done by then"
		}
		h.b.line("hang."+h.k.name+"."+name, took.Seconds(), beside)
	}
	if h.k.name != wholeGitLab {
		line("block_s", block, 15*time.Second)
		line("removal_s", removal, 15*time.Second)
	}
	line("drift_s", drift, time.Second)
	line("hook_s", hook, time.Second)
	h.mu.Lock()
	defer h.mu.Unlock()
	truth := 1
	if h.lied > 0 {
		truth = 0
		fmt.Fprintf(h.b.say, "hang.%s: %s\n", h.k.name, h.lie)
	}
	h.b.line("hang."+h.k.name+".staleness_true", truth, "(bar 1)")
}

// lead makes the program ask for what hangs, again and again.
func (h *hanging) lead(ctx context.Context, w *gitlabsim.World) error {
	user, ns := h.k.hit(h.s), h.names[authz.ProjectID(h.s.project)]
	if ok, err := h.prober.may(ctx, user, ns); err != nil || !ok {
		return errors.Join(fmt.Errorf("user %d has no right in %q before it is taken", user, ns), err)
	}
	if err := h.k.begin(w, h.s); err != nil {
		return err
	}
	c := h.note(change{what: "what hangs", account: h.k.accounts})
	for next := time.Now(); ; {
		if time.Now().After(next) {
			if err := h.k.again(w, h.s); err != nil {
				return err
			}
			next = time.Now().Add(3 * time.Second)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
		if ok, err := h.prober.may(ctx, user, ns); err != nil {
			return err
		} else if !ok {
			h.applied(c)
		}
	}
}

func (h *hanging) note(c change) *change {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.at = time.Now()
	h.changes = append(h.changes, &c)
	return &c
}

func (h *hanging) applied(c *change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c.applied.IsZero() {
		c.applied = time.Now()
	}
}

// carried does a change in GitLab and returns how long it took until the API server refused the user and, if there is a
// token of theirs, the webhook too; or the limit.
func (h *hanging) carried(ctx context.Context, c change, user, project int64, token string, do func() error) (time.Duration, error) {
	ns := h.names[authz.ProjectID(project)]
	if ok, err := h.prober.may(ctx, user, ns); err != nil || !ok {
		return 0, errors.Join(fmt.Errorf("user %d has no right in %q before it is taken", user, ns), err)
	}
	start := time.Now()
	if err := do(); err != nil {
		return 0, err
	}
	noted := h.note(c)
	for {
		still, err := h.prober.may(ctx, user, ns)
		if err == nil && !still && token != "" {
			still, err = h.admitted(ctx, token)
		}
		if err != nil {
			return 0, err
		}
		took := time.Since(start)
		if !still {
			h.applied(noted)
			return took, nil
		}
		if took >= h.limit {
			return h.limit, nil
		}
		if err := pause(ctx, 5*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// slowest repeats a measurement until over is closed, some times at least, and returns the greatest result. What reaches
// the limit is not repeated.
func (h *hanging) slowest(ctx context.Context, over <-chan struct{}, one func(ctx context.Context, try int) (time.Duration, error)) (slowest time.Duration, err error) {
	for try := 0; ; try++ {
		took, err := one(ctx, try)
		if err != nil {
			return 0, err
		}
		slowest = max(slowest, min(took, h.limit))
		if slowest == h.limit {
			return slowest, nil
		}
		select {
		case <-over:
			if try+1 >= leastTries {
				return slowest, nil
			}
		default:
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// drift takes the subjects out of a RoleBinding elsewhere, as somebody with kubectl could, and returns how long it took
// until they were back.
func (h *hanging) drift(ctx context.Context, try int) (time.Duration, error) {
	rest := h.s.away[2:]
	bindings := h.c.kube.RbacV1().RoleBindings(h.names[authz.ProjectID(rest[try%len(rest)])])
	list, err := bindings.List(ctx, mine)
	if err != nil {
		return 0, err
	}
	i := slices.IndexFunc(list.Items, func(rb rbacv1.RoleBinding) bool {
		return len(rb.Subjects) > 0 && rb.Subjects[0].Kind == rbacv1.UserKind
	})
	if i < 0 {
		return 0, fmt.Errorf("no RoleBinding of users to change in project %d", rest[try%len(rest)])
	}
	before := list.Items[i].Subjects
	rb := list.Items[i].DeepCopy()
	rb.Subjects = nil
	if _, err := bindings.Update(ctx, rb, metav1.UpdateOptions{}); err != nil {
		return 0, err
	}
	for start := time.Now(); ; {
		now, err := bindings.Get(ctx, rb.Name, metav1.GetOptions{})
		if err != nil {
			return 0, err
		}
		if took := time.Since(start); took >= h.limit || equality.Semantic.DeepEqual(now.Subjects, before) {
			return took, nil
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return 0, err
		}
	}
}

// hook sends a hook about a project elsewhere and returns how long its answer took.
func (h *hanging) hook(ctx context.Context, _ int) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, h.limit)
	defer cancel()
	body := fmt.Appendf(nil, `{"event_name":"project_update","project_id":%d,"name":"project","path":"project"}`, h.s.away[2])
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.p.hooks, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("X-Gitlab-Event", "System Hook")
	req.Header.Set("X-Gitlab-Token", hookSecret)
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	took := time.Since(start)
	if took >= h.limit {
		return took, nil
	}
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err == nil && resp.StatusCode/100 != 2 {
		err = fmt.Errorf("a hook was answered with HTTP %d", resp.StatusCode)
	}
	return took, err
}

// admitted asks the webhook as kube-apiserver does when somebody logs in.
func (h *hanging) admitted(ctx context.Context, token string) (bool, error) {
	body := fmt.Appendf(nil, `{"kind":"TokenReview","apiVersion":"authentication.k8s.io/v1","spec":{"token":%q}}`, token)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.p.webhooks+"/authenticate", bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.login.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	var review struct {
		Status struct {
			Authenticated bool `json:"authenticated"`
		} `json:"status"`
	}
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("a TokenReview was answered with HTTP %d", resp.StatusCode)
	}
	err = json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&review)
	return review.Status.Authenticated, err
}

// watchStaleness compares staleness_seconds with what has not been applied: a number is true while nothing that it is about is
// older and not in the cluster. NaN says that nothing is known, which is true as well.
func (h *hanging) watchStaleness(ctx context.Context) error {
	for {
		asked := time.Now()
		text, err := h.p.scrape(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return fmt.Errorf("reading the metrics: %w", err)
		}
		said, err := staleness(text)
		if err != nil {
			return err
		}
		h.compare(asked, time.Now(), said)
		if err := pause(ctx, 100*time.Millisecond); err != nil {
			return err
		}
	}
}

// compare notes where what was said, between two points of time, was less than the truth at the first of them.
func (h *hanging) compare(asked, answered time.Time, said map[string]time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.changes {
		if !c.at.Before(asked) || !c.applied.IsZero() && c.applied.Before(answered) {
			continue
		}
		missing := asked.Sub(c.at)
		for of, age := range said {
			if of != "everything" && !c.account || of == "present_accounts" && !c.present {
				continue
			}
			if lie := missing - age; lie > h.lied+100*time.Millisecond {
				h.lied = lie
				h.lie = fmt.Sprintf("staleness_seconds{of=%q} was %.1f when %s was %.1f s old and not applied", of, age.Seconds(), c.what, missing.Seconds())
			}
		}
	}
}

// staleness reads the metric; what is NaN is left out.
func staleness(text string) (map[string]time.Duration, error) {
	out := map[string]time.Duration{}
	found := false
	for line := range strings.SplitSeq(text, "\n") {
		rest, ok := strings.CutPrefix(line, `gl_k8s_integrator_staleness_seconds{of="`)
		if !ok {
			continue
		}
		found = true
		of, number, _ := strings.Cut(rest, `"} `)
		seconds, err := strconv.ParseFloat(number, 64)
		if err != nil {
			return nil, fmt.Errorf("reading %q: %w", line, err)
		}
		if !math.IsNaN(seconds) {
			out[of] = time.Duration(seconds * float64(time.Second))
		}
	}
	if !found {
		return nil, errors.New("the metrics have no staleness_seconds")
	}
	return out, nil
}
