package ci

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// Report is what one call of Provision did.
type Report struct {
	Issued    int        // new tokens in Secrets
	Delivered int        // projects that were written to
	Handed    []Handover // what was changed in them
	// Findings are all that are known, also of namespaces that were not looked at this time.
	Findings []authz.Finding
	// Next is when something is due again, at the latest; zero: never.
	Next time.Time
	// Stopped says that not everything was done.
	Stopped bool
	// Dying says that a token which may have to die did not, in this call or one before: it is tried again.
	Dying bool
}

func (r *Report) find(code, format string, args ...any) {
	r.Findings = append(r.Findings, authz.Finding{Code: code, Text: fmt.Sprintf(format, args...)})
}

// Beside is what a Provisioner has to know of what goes on beside it. The zero value is nothing.
type Beside struct {
	// Stop, optional, is true when nothing new is to be started.
	Stop func() bool
	// Changed, optional, is called, of several namespaces at the same time, when Status has changed in a way that a
	// namespace's CI binding depends on.
	Changed func(authz.SourceID)
	// Yield, optional, returns when nothing more urgent is being written, or after patience. It is called before each look at a
	// namespace in which nothing has to die, of several at the same time: the rights of people come before new CI tokens.
	Yield func(ctx context.Context, patience time.Duration)
	// Scope, optional, says that the namespaces are by name, and where one may be another than at the call before; nil: anywhere. What a
	// call before did not come to is looked at all the same.
	Scope rbacsync.Scope
	// Since is when there was first something to do that is not done, for the time that all looks wait; zero: now.
	Since time.Time
}

const (
	// YieldNew is how long one look waits for what is more urgent.
	YieldNew = 5 * time.Second
	// yieldAll is how long all looks wait for it, those of the calls before that were stopped included.
	yieldAll = time.Minute
)

// wait makes room for what is more urgent.
func (b Beside) wait(ctx context.Context) {
	if b.Yield == nil {
		return
	}
	if patience := min(YieldNew, yieldAll-time.Since(b.Since)); patience > 0 {
		b.Yield(ctx, patience)
	}
}

// Provision brings the Secrets, and what projects are given, of all these namespaces in order. What fails is in the
// report and is tried again at a later call, with growing pauses.
func (p *Provisioner) Provision(ctx context.Context, namespaces []Namespace) Report {
	return p.ProvisionBeside(ctx, namespaces, Beside{})
}

// ProvisionBeside is Provision beside something else. Tokens that have to die it deals with also when it is stopped; with the rest
// the next call goes on.
func (p *Provisioner) ProvisionBeside(ctx context.Context, namespaces []Namespace, b Beside) Report {
	var report Report
	p.begin(namespaces, p.learn(ctx, &report), p.c.Now())
	todo, dying := p.todo(namespaces, b.Scope, p.c.Now())
	if b.Since.IsZero() {
		b.Since = time.Now()
	}
	var done, issued, delivered atomic.Int64
	var handed sync.Mutex
	var g errgroup.Group
	g.SetLimit(p.c.Concurrency)
	end := p.progress(ctx, &done, len(todo))
	for i, n := range todo {
		if ctx.Err() != nil || i >= dying && b.Stop != nil && b.Stop() {
			report.Stopped = true
			break
		}
		g.Go(func() error {
			if i >= dying {
				b.wait(ctx)
			}
			p.listen(n.Name)
			w := p.work(n)
			err := w.do(ctx)
			done.Add(1)
			issued.Add(int64(w.issued))
			delivered.Add(int64(w.delivered))
			handed.Lock()
			report.Handed = append(report.Handed, w.handed...)
			handed.Unlock()
			if ctx.Err() != nil {
				return nil
			}
			w.alive = err != nil && i < dying && w.tokenLives()
			p.keep(w.ended(ctx, err), w.settledLoss)
			if w.changed && b.Changed != nil {
				b.Changed(n.Source)
			}
			return nil
		})
	}
	_ = g.Wait() // failures are findings
	end()
	slices.SortFunc(report.Handed, func(a, b Handover) int {
		return cmp.Or(cmp.Compare(a.Project, b.Project), strings.Compare(a.Namespace, b.Namespace))
	})
	report.Issued, report.Delivered = int(issued.Load()), int(delivered.Load())
	p.gather(p.c.Lifetime, &report)
	return report
}

// learn asks for what may have changed since the last pass, and returns it.
func (p *Provisioner) learn(ctx context.Context, r *Report) facts {
	f, _, _ := p.about("")
	const goOn = ": jobs go on with the CA that was read before"
	if p.c.CA != nil {
		if ca, err := p.c.CA(); err != nil {
			r.find("ci_ca_unread", "%v%s", err, goOn)
		} else if ca, err = p.trimmer.trim(ctx, Cluster{URL: f.cluster.URL, CA: ca}); err != nil {
			r.find("ci_ca_too_large", "the CA bundle for jobs has more than %d bytes, and which of its certificates they need can't be seen, because the API server can't be verified at %s: %v:"+
				" set cluster.publicCAFile to a file with the API server's CA alone", wholeCA, f.cluster.URL, err)
		} else {
			f.cluster.CA = ca
		}
	}
	if p.c.Agent != nil && p.c.Agent.ReadCA != nil {
		if ca, err := p.c.Agent.ReadCA(); err != nil {
			r.find("ci_ca_unread", "%v%s", err, goOn)
		} else {
			f.agentCA = ca
		}
	}
	if p.c.Expands != nil {
		if expands, err := p.plain.get(p.c.Now(), p.c.Recheck, func() (bool, error) { return p.c.Expands(ctx) }); err == nil {
			f.expands = expands
		}
	}
	if err := p.keys.look(ctx, p.c.Keys, p.c.Now(), p.c.Recheck); err != nil && ctx.Err() == nil {
		r.find("ci_keys_unread", "%v: a change of these keys is not noticed", err)
	}
	f.keys = p.keys.ids()
	if p.c.Reach != nil {
		why, _ := p.reach.get(p.c.Now(), p.c.Recheck, func() (error, error) { return p.c.Reach(ctx, f.cluster), nil })
		if why != nil && ctx.Err() == nil {
			r.find("ci_api_url", "%v", why)
		}
	}
	if f.id == "" {
		var err error
		if f.id, err = ClusterID(ctx, p.c.Kube); err != nil && ctx.Err() == nil {
			r.find("ci_cluster_unread", "%v: until then nothing is written to GitLab", err)
		}
	}
	return f
}

// progress logs how far a pass is, every ten seconds, until the returned func is called.
func (p *Provisioner) progress(ctx context.Context, done *atomic.Int64, total int) (end func()) {
	start := time.Now()
	until, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = wait.PollUntilContextCancel(until, 10*time.Second, false, func(context.Context) (bool, error) {
			left := "?"
			if n := done.Load(); n > 0 {
				left = (time.Since(start) / time.Duration(n) * time.Duration(int64(total)-n)).Round(time.Second).String()
			}
			p.c.Logger.InfoContext(ctx, "CI credentials are being brought in order", "done", done.Load(), "of", total, "left", left)
			return false, nil
		})
	})
	return func() { stop(); wg.Wait() }
}

// Statuses returns what is known of the deliveries into the namespaces of a scope.
func (p *Provisioner) Statuses(scope rbacsync.Scope) rbacsync.DeliveryStatuses {
	now := p.c.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	out := rbacsync.DeliveryStatuses{}
	states := p.states
	if scope != nil { // of single ones: a pass over them is not to cost what all do
		states = make(map[string]*namespaceState, len(scope))
		for ns := range scope {
			if st := p.states[ns]; st != nil {
				states[ns] = st
			}
		}
	}
	for ns, st := range states {
		if st.recs == nil {
			continue
		}
		out[ns] = make(map[int64]rbacsync.DeliveryStatus, len(st.recs))
		for project, r := range st.recs {
			s := rbacsync.DeliveryStatus{Delivery: r.Delivery, Refused: r.refused, Settled: r.Delivery != "" && !now.Before(r.Since.Add(p.c.Handover))}
			if r.SlugOf == p.c.Scope {
				s.Slug = r.Slug
			}
			out[ns][project] = s
		}
	}
	return out
}

// DestroyLost destroys the tokens that people could read who have just lost that right, and nothing else: it waits for no
// GitLab, and may be called while Provision does. The next Provision makes new ones. Where that was done, Lost is emptied.
func (p *Provisioner) DestroyLost(ctx context.Context, namespaces []Namespace) {
	var g errgroup.Group
	g.SetLimit(p.c.Concurrency)
	for i := range namespaces {
		if len(namespaces[i].Lost) == 0 || namespaces[i].Gone {
			continue
		}
		n := namespaces[i]
		g.Go(func() error {
			w := p.work(n)
			w.lost = n.Lost
			err := w.destroyLost(ctx)
			if err == nil && w.settledLoss && w.s != nil {
				namespaces[i].Lost = nil // dealt with: what is made from now on they have never seen
			}
			if err != nil && ctx.Err() == nil {
				p.c.Logger.WarnContext(ctx, "CI token not destroyed yet, it is tried again at once", "namespace", n.Name, "source", n.Source.String(), "error", err)
			}
			return nil
		})
	}
	_ = g.Wait()
}
