package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Reporter writes the status of the leader beside the rounds.
type Reporter struct {
	Kube     kubernetes.Interface
	Log      *slog.Logger
	Mode     string
	Elector  *store.Elector
	Syncer   *syncer.Syncer
	Requests func() map[string]int64
	Budget   *Budget
	Sampled  func() []authz.Finding // of the last sample and of the configuration
	Secrets  func() error           // why hooks can't be checked
	Now      func() time.Time
	Wake     chan struct{}
	mu       sync.Mutex
	held     int
	hooks    int             // dealt with
	times    []time.Duration // of the last hookTimes of them
}

// Add notes that a round has ended.
func (p *Reporter) Add(r syncer.Round) {
	if r.Names != nil {
		p.mu.Lock()
		p.held = len(r.Held)
		p.mu.Unlock()
	}
	p.mu.Lock()
	for _, t := range r.Done {
		p.hooks++
		if !t.At.IsZero() {
			p.times = append(p.times, max(0, r.Started.Add(r.Duration).Sub(t.At)))
		}
	}
	p.times = p.times[max(0, len(p.times)-hookTimes):]
	p.mu.Unlock()
	p.Rouse()
}

// Rouse has the status written soon.
func (p *Reporter) Rouse() {
	select {
	case p.Wake <- struct{}{}:
	default:
	}
}

func (p *Reporter) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.Wake:
		}
		if p.Elector.May() == nil {
			if err := p.write(ctx); err != nil && ctx.Err() == nil {
				p.Log.WarnContext(ctx, "the status was not written", "error", err)
			}
		}
		t := time.NewTimer(statusEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (p *Reporter) write(ctx context.Context) error {
	st := p.Syncer.State()
	if st == nil { // no round has ended, and nothing is stored: the leader waits
		st = &syncer.State{}
	}
	body, err := json.Marshal(p.status(st))
	if err != nil {
		return err
	}
	return store.Put(ctx, p.Kube.CoreV1().ConfigMaps(deploy.Namespace), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: store.NameStatus, Namespace: deploy.Namespace,
		Labels: map[string]string{"app.kubernetes.io/name": "gl-k8s-integrator"},
	}, Data: map[string]string{statusKey: string(body)}})
}

func (p *Reporter) status(st *syncer.State) Document {
	r := st.Round
	p.mu.Lock()
	held, hooks := p.held, HookTimes{Count: p.hooks}
	if len(p.times) > 0 {
		sorted := slices.Sorted(slices.Values(p.times))
		hooks.Median, hooks.Slowest = sorted[len(sorted)/2].Round(time.Millisecond).String(), sorted[len(sorted)-1].Round(time.Millisecond).String()
	}
	p.mu.Unlock()
	if err := p.Secrets(); err != nil {
		hooks.Refused = clip(err.Error(), statusLength)
	}
	out := Document{
		Written: p.Now().UTC(), Leader: p.Elector.Identity, Mode: p.Mode, Held: held, Hooks: hooks, Requests: p.Requests(), Budget: map[string]string{},
		Round: roundStatus{
			Cause: r.Cause, Read: r.Read, Started: r.Started.UTC(), Duration: r.Duration.Round(time.Millisecond).String(),
			Spaces: r.Spaces, Planned: len(r.Plan), Applied: r.Report.Applied, Failed: r.Unwritten,
		},
		Findings: map[string]int{}, Sources: map[string]int{},
	}
	if st.Err != nil {
		out.Failing, out.Since = clip(st.Err.Error(), 3*statusLength), st.Since.UTC()
	}
	if s := st.View.Snapshot; s != nil {
		out.Read = s.Taken
		out.Sources = map[string]int{"groups": len(s.Groups), "projects": len(s.Projects), "users": len(s.Users), "unread": len(s.Missing), "namespaces": len(st.View.Namespace)}
	}
	if b, ok := p.Syncer.Staleness(); ok {
		out.Staleness = map[string]string{
			"everything": b.Everything.Round(time.Second).String(),
			"accounts":   b.Accounts.Round(time.Second).String(), "present accounts": b.Present.Round(time.Second).String(),
		}
	}
	for kind, share := range p.Budget.Shares() {
		out.Budget[kind] = fmt.Sprintf("%.0f %%", 100*share)
	}
	for _, f := range slices.Concat(p.Sampled(), r.Findings) {
		out.Findings[f.Code]++
		if len(out.Texts) < statusTexts {
			out.Texts = append(out.Texts, clip(f.Code+": "+f.Text, statusLength))
		}
	}
	return out
}
