package ci

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Defaults of a Provisioner that nobody can configure.
const (
	defaultRecheck     = 5 * time.Minute
	defaultConcurrency = 4
	// defaultRate keeps below 40 requests a second when every project gets all of its variables.
	defaultRate = 5
)

// Provisioner keeps tokens fresh and delivered. Its methods may be called at the same time, but for Provision, which
// one goroutine calls at a time.
type Provisioner struct {
	Kube kubernetes.Interface
	// Variables and Clusters write into GitLab; a nil one makes the modes that need it findings.
	Variables VariableWriter
	Clusters  ClusterWriter
	Agent     *Agent // nil: mode agent is a finding
	Cluster   Cluster
	// Replaces are ids of clusters that are no more: what names them in GitLab is ours. See Claim.
	Replaces []string
	Audience string        // of ID tokens, for telling people
	Scope    string        // the environment; a changed one is delivered again
	Lifetime time.Duration // asked for; the API server may give less. 0: rbacsync.DefaultTokenLifetime
	// Handover is how long what jobs had before still works after a project was moved to another mode: as long as jobs
	// run. 0: rbacsync.DefaultHandover
	Handover time.Duration
	// Withhold is how long no token is written into the Secret that people can read, after somebody has lost the right to
	// read it: as long as a watch can live. 0: until an administrator removes kubename.AnnotationWithheldSince, because
	// kube-apiserver lets a client choose how long its watch lives (timeoutSeconds).
	Withhold time.Duration
	// Recheck is how long a Secret that was found in order is not looked at again. 0: 5 minutes
	Recheck     time.Duration
	Concurrency int     // namespaces at the same time; 0: 4
	Rate        float64 // projects written to in a second; 0: 5
	// CA, optional, reads Cluster's CA anew at each pass: it is in a file that is replaced beside us.
	CA func() ([]byte, error)
	// Keys, optional, returns the ids of the keys of which the API server accepts tokens. See KeysOf.
	Keys func(context.Context) (map[string]bool, error)
	// Reach, optional, says why jobs could not reach the API server at Cluster. See Reach.
	Reach func(context.Context) error
	// TooOld, optional, says why this GitLab is too old for a mode, "" if it is not. While it can't be asked, it is not.
	TooOld func(context.Context, rbacsync.Delivery) (why string, err error)
	// Changed, optional, is called when Status has changed in a way that the namespace's CI binding depends on.
	Changed func(authz.SourceID)
	Now     func() time.Time
	Logger  *slog.Logger

	id    string // of the cluster, "" until it was read
	keys  keyring
	fit   fit
	pace  *rate.Limiter
	reach remembered[string]
	agent remembered[AgentState]
	old   map[rbacsync.Delivery]*remembered[string]

	mu     sync.Mutex
	states map[string]*state         // by namespace
	lost   map[string]map[int64]bool // by namespace: who lost the right to read its token, and was not dealt with
	home   map[int64]string          // where a project deploys
}

// state is what is remembered of a namespace.
type state struct {
	namespace Namespace
	until     time.Time // until then it need not be looked at, unless it changes
	failures  int
	findings  []authz.Finding
	records   map[int64]record
	uid       types.UID // of the Secret
	anchor    types.UID
	token     string // sum of the token
	life      time.Duration
}

// remembered is an answer that is not asked for again for a while.
type remembered[T any] struct {
	mu     sync.Mutex
	answer T
	err    error
	at     time.Time
}

func (r *remembered[T]) get(now time.Time, every time.Duration, ask func() (T, error)) (T, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.at.IsZero() || !now.Before(r.at.Add(every)) {
		if r.answer, r.err = ask(); r.err == nil {
			r.at = now
		}
	}
	return r.answer, r.err
}

// Report is what one call of Provision did.
type Report struct {
	Issued    int // new tokens in Secrets
	Delivered int // projects that were written to
	// Findings are all that are known, also of namespaces that were not looked at this time.
	Findings []authz.Finding
	// Next is when something is due again, at the latest; zero: never.
	Next time.Time
	// Stopped says that not everything was done.
	Stopped bool
}

// Provision brings the Secrets, and what projects are given, of all these namespaces in order. What fails is in the
// report and is tried again at a later call, with growing pauses.
func (p *Provisioner) Provision(ctx context.Context, namespaces []Namespace) Report {
	return p.ProvisionUntil(ctx, namespaces, func() bool { return false })
}

// ProvisionUntil is Provision that starts nothing new when stop is true. The next call goes on where it stopped.
func (p *Provisioner) ProvisionUntil(ctx context.Context, namespaces []Namespace, stop func() bool) Report {
	p.begin(namespaces)
	var report Report
	if p.CA != nil {
		if ca, err := p.CA(); err != nil {
			report.Findings = append(report.Findings, authz.Finding{Code: "ci_ca_unread", Text: err.Error() + ": jobs go on with the CA that was read before"})
		} else if ca, err = p.fit.cut(ctx, Cluster{URL: p.Cluster.URL, CA: ca}); err != nil {
			report.Findings = append(report.Findings, authz.Finding{Code: "ci_ca_too_large", Text: fmt.Sprintf(
				"the CA bundle for jobs has more than %d bytes, and which of its certificates they need can't be seen, because the API server can't be verified at %s: %v:"+
					" set cluster.publicCAFile to a file with the API server's CA alone", wholeCA, p.Cluster.URL, err)})
		} else {
			p.mu.Lock()
			p.Cluster.CA = ca
			p.mu.Unlock()
		}
	}
	if p.Agent != nil && p.Agent.ReadCA != nil {
		if ca, err := p.Agent.ReadCA(); err != nil {
			report.Findings = append(report.Findings, authz.Finding{Code: "ci_ca_unread", Text: err.Error() + ": jobs go on with the CA that was read before"})
		} else {
			p.mu.Lock()
			p.Agent.CA = ca
			p.mu.Unlock()
		}
	}
	if err := p.keys.look(ctx, p.Keys, p.Now(), p.recheck()); err != nil && ctx.Err() == nil {
		report.Findings = append(report.Findings, authz.Finding{Code: "ci_keys_unread", Text: err.Error() + ": a change of these keys is not noticed"})
	}
	if p.Reach != nil {
		text, _ := p.reach.get(p.Now(), p.recheck(), func() (string, error) {
			if err := p.Reach(ctx); err != nil {
				return err.Error(), nil
			}
			return "", nil
		})
		if text != "" && ctx.Err() == nil {
			report.Findings = append(report.Findings, authz.Finding{Code: "ci_api_url", Text: text})
		}
	}
	if p.id == "" {
		var err error
		if p.id, err = ClusterID(ctx, p.Kube); err != nil && ctx.Err() == nil {
			report.Findings = append(report.Findings, authz.Finding{Code: "ci_cluster_unread", Text: err.Error() + ": until then nothing is written to GitLab"})
		}
	}
	todo := p.todo(namespaces)
	var done, issued, delivered atomic.Int64
	var g errgroup.Group
	g.SetLimit(p.concurrency())
	end := p.progress(ctx, &done, len(todo))
	for _, n := range todo {
		if ctx.Err() != nil || stop() {
			report.Stopped = true
			break
		}
		g.Go(func() error {
			o := p.provision(ctx, n)
			done.Add(1)
			issued.Add(int64(o.issued))
			delivered.Add(int64(o.delivered))
			return nil
		})
	}
	_ = g.Wait() // failures are findings
	end()
	report.Issued, report.Delivered = int(issued.Load()), int(delivered.Load())
	p.finish(namespaces, &report)
	return report
}

// ClusterID returns what names a cluster in GitLab: the UID of its namespace kube-system, which lives as long as the cluster.
func ClusterID(ctx context.Context, kube kubernetes.Interface) (string, error) {
	ns, err := kube.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("reading which cluster this is, by the UID of namespace %s: %w", metav1.NamespaceSystem, err)
	}
	if ns.UID == "" {
		return "", fmt.Errorf("reading which cluster this is: namespace %s has no UID", metav1.NamespaceSystem)
	}
	return string(ns.UID), nil
}

// begin takes note of a list of namespaces.
func (p *Provisioner) begin(namespaces []Namespace) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.states == nil {
		p.states, p.lost = map[string]*state{}, map[string]map[int64]bool{}
	}
	if p.pace == nil {
		p.pace = rate.NewLimiter(rate.Limit(cmp.Or(max(p.Rate, 0), defaultRate)), 10)
	}
	if p.old == nil {
		p.old = map[rbacsync.Delivery]*remembered[string]{rbacsync.DeliverIDToken: {}, rbacsync.DeliverAgent: {}}
	}
	p.home = map[int64]string{}
	present := make(map[string]bool, len(namespaces))
	for _, n := range namespaces {
		present[n.Name] = true
		if !n.Gone {
			for _, project := range n.Projects {
				p.home[project.ID] = n.Name
			}
		}
		for _, id := range n.Lost {
			if p.lost[n.Name] == nil {
				p.lost[n.Name] = map[int64]bool{}
			}
			p.lost[n.Name][id] = true
		}
	}
	maps.DeleteFunc(p.states, func(name string, _ *state) bool { return !present[name] })
	maps.DeleteFunc(p.lost, func(name string, _ map[int64]bool) bool { return !present[name] })
}

// todo returns what has to be looked at: first where a token has to die, then by name, so that an interrupted pass
// goes on where it stopped.
func (p *Provisioner) todo(namespaces []Namespace) []Namespace {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.Now()
	urgent := map[string]bool{}
	var out []Namespace
	for _, n := range namespaces {
		st := p.states[n.Name]
		if st != nil && st.namespace.Account == "" { // it was new then and has no token; now its uid is known
			st.namespace.Account = n.Account
		}
		if st != nil && st.namespace.same(n) && now.Before(st.until) && p.lost[n.Name] == nil {
			continue
		}
		urgent[n.Name] = n.Gone || p.lost[n.Name] != nil || st != nil && !n.Undecided && len(without(st.namespace.Readers, n.Readers)) > 0
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b Namespace) int {
		if urgent[a.Name] != urgent[b.Name] {
			if urgent[a.Name] {
				return -1
			}
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	return out
}

// progress logs how far a pass is, every ten seconds, until the returned func is called.
func (p *Provisioner) progress(ctx context.Context, done *atomic.Int64, total int) (end func()) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		start := time.Now()
		t := time.NewTicker(10 * time.Second)
		defer t.Stop()
		for {
			select {
			case <-stop:
				return
			case <-t.C:
			}
			left := "?"
			if n := done.Load(); n > 0 {
				left = (time.Since(start) / time.Duration(n) * time.Duration(int64(total)-n)).Round(time.Second).String()
			}
			p.log().InfoContext(ctx, "CI credentials are being brought in order", "done", done.Load(), "of", total, "left", left)
		}
	}()
	return func() { close(stop); <-stopped }
}

// finish gathers what is known of all namespaces.
func (p *Provisioner) finish(namespaces []Namespace, r *Report) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var short time.Duration
	var where []string
	for _, n := range namespaces {
		st := p.states[n.Name]
		if st == nil {
			continue
		}
		r.Findings = append(r.Findings, st.findings...)
		if r.Next.IsZero() || st.until.Before(r.Next) {
			r.Next = st.until
		}
		if st.life > 0 && st.life < p.lifetime()*9/10 {
			where = append(where, n.Name)
			if short == 0 || st.life < short {
				short = st.life
			}
		}
	}
	if len(where) > 0 {
		r.Findings = append(r.Findings, authz.Finding{Code: "ci_token_lifetime", Text: fmt.Sprintf(
			"the API server gives CI tokens %s instead of the %s asked for (ci.tokenLifetime), in %d namespaces (the first is %q): its flag --service-account-max-token-expiration says so."+
				" They are replaced in time all the same; set ci.tokenLifetime to what it allows", short, p.lifetime(), len(where), slices.Min(where))})
	}
	slices.SortFunc(r.Findings, func(a, b authz.Finding) int {
		return cmp.Or(a.Source.Compare(b.Source), strings.Compare(a.Code, b.Code), strings.Compare(a.Text, b.Text))
	})
}

// Status returns what is known of a project's delivery into a namespace.
func (p *Provisioner) Status(namespace string, project int64) rbacsync.DeliveryStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	st := p.states[namespace]
	if st == nil || st.records == nil {
		return rbacsync.DeliveryStatus{}
	}
	r := st.records[project]
	s := rbacsync.DeliveryStatus{Known: true, Delivery: r.Mode, Refused: r.refused, Settled: r.Mode != "" && !p.Now().Before(r.Since.Add(p.handover()))}
	if r.SlugOf == p.Scope {
		s.Slug = r.Slug
	}
	return s
}

// DestroyLost destroys the tokens that people could read who have just lost that right, and nothing else: it waits for no
// GitLab, and may be called while Provision does. The next Provision makes new ones. Where that was done, Lost is emptied.
func (p *Provisioner) DestroyLost(ctx context.Context, namespaces []Namespace) {
	var g errgroup.Group
	g.SetLimit(p.concurrency())
	for i, n := range namespaces {
		if len(n.Lost) == 0 || n.Gone {
			continue
		}
		g.Go(func() error {
			w, _ := p.work(n)
			w.lost = n.Lost
			err := w.destroyLost(ctx)
			if err == nil && w.settledLoss && w.s != nil {
				namespaces[i].Lost = nil // dealt with: what is made from now on they have never seen
			}
			if err != nil && ctx.Err() == nil {
				p.log().WarnContext(ctx, "CI token not destroyed yet, it is tried again at once", "namespace", n.Name, "source", n.Source.String(), "error", err)
			}
			return nil
		})
	}
	_ = g.Wait()
}

// work begins a look at one namespace with what is remembered of it.
func (p *Provisioner) work(n Namespace) (w *work, old *state) {
	w = &work{p: p, n: n, next: p.Now().Add(p.recheck())}
	p.mu.Lock()
	defer p.mu.Unlock()
	if old = p.states[n.Name]; old != nil && old.records != nil {
		w.before = maps.Clone(old.records)
	}
	w.lost, w.ca = slices.Sorted(maps.Keys(p.lost[n.Name])), p.Cluster.CA
	return w, old
}

// provision brings one namespace in order and remembers what it found.
func (p *Provisioner) provision(ctx context.Context, n Namespace) *work {
	w, old := p.work(n)
	err := w.do(ctx)
	if ctx.Err() != nil {
		return w
	}
	if w.recs == nil && err != nil && old != nil {
		w.recs = old.records
	}
	st := &state{namespace: n, until: w.next, findings: w.findings, records: w.recs, life: w.life}
	if w.anchor != nil {
		st.anchor = w.anchor.UID
	}
	if w.s != nil {
		st.uid, st.token = w.s.UID, sum(string(w.s.Data[keyToken]))
		if c, ok := parseClaims(w.s.Data[keyToken]); ok && n.Account == "" { // the one that was made just now, or one after it
			st.namespace.Account = types.UID(c.Kubernetes.Account.UID)
		}
	}
	if err != nil {
		code := "ci_token_failed"
		if _, ok := errors.AsType[*deliveryError](err); ok {
			code = "ci_delivery_failed"
		}
		p.log().WarnContext(ctx, "CI credentials not in order", "namespace", n.Name, "source", n.Source.String(), "error", err)
		for line := range strings.SplitSeq(err.Error(), "\n") {
			st.findings = append(st.findings, authz.Finding{Code: code, Source: n.Source, Text: line})
		}
		if old != nil {
			st.failures = old.failures
		}
		st.failures++
		st.until = p.Now().Add(min(time.Second<<min(st.failures, 12), p.recheck()))
	}
	p.mu.Lock()
	p.states[n.Name] = st
	if w.settledLoss {
		delete(p.lost, n.Name)
	}
	p.mu.Unlock()
	if p.Changed != nil && w.changed {
		p.Changed(n.Source)
	}
	return w
}

// deliveryError is a failure on GitLab's side.
type deliveryError struct{ error }

func (e *deliveryError) Unwrap() error { return e.error }

func (p *Provisioner) log() *slog.Logger {
	if p.Logger != nil {
		return p.Logger
	}
	return slog.New(slog.DiscardHandler)
}

func positive(d, standard time.Duration) time.Duration {
	if d > 0 {
		return d
	}
	return standard
}

func (p *Provisioner) concurrency() int { return cmp.Or(max(p.Concurrency, 0), defaultConcurrency) }

func (p *Provisioner) lifetime() time.Duration {
	return positive(p.Lifetime, rbacsync.DefaultTokenLifetime)
}

func (p *Provisioner) handover() time.Duration { return positive(p.Handover, rbacsync.DefaultHandover) }
func (p *Provisioner) recheck() time.Duration  { return positive(p.Recheck, defaultRecheck) }
