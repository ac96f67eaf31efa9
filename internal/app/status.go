package app

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// status is what the leader writes down about itself after its rounds, for `status`.
type status struct {
	Written   time.Time         `json:"written"`
	Leader    string            `json:"leader"`
	Mode      string            `json:"mode"`
	Read      time.Time         `json:"read"` // when the last full reading of GitLab was begun
	Round     roundStatus       `json:"round"`
	Failing   string            `json:"failing,omitempty"` // the error, while rounds fail
	Since     time.Time         `json:"since,omitzero"`
	Staleness map[string]string `json:"staleness,omitempty"`
	Held      int               `json:"held"`
	Findings  map[string]int    `json:"findings,omitempty"` // by code
	Texts     []string          `json:"texts,omitempty"`    // of findings
	Requests  map[string]int64  `json:"requests,omitempty"` // to GitLab, by kind, since the leader's start
	Budget    map[string]string `json:"budget,omitempty"`   // share of GitLab's limits in the last minute
	Sources   map[string]int    `json:"sources,omitempty"`
	Hooks     hookStatus        `json:"hooks"`
}

// hookStatus says how long it took from the receipt of hooks until they were dealt with, of the last hookTimes of them.
type hookStatus struct {
	Count   int    `json:"count"` // since the leader's start
	Median  string `json:"median,omitempty"`
	Slowest string `json:"slowest,omitempty"`
	Refused string `json:"refused,omitempty"` // why the leader can't check hooks
}

type roundStatus struct {
	Cause    string    `json:"cause"`
	Read     string    `json:"read"`
	Started  time.Time `json:"started"`
	Duration string    `json:"duration"`
	Spaces   int       `json:"namespaces"`
	Planned  int       `json:"planned"`
	Applied  int       `json:"applied"`
	Failed   int       `json:"failed"`
}

const (
	statusKey    = "status.json"
	statusEvery  = 5 * time.Second
	statusTexts  = 50
	statusLength = 300 // of one text
	hookTimes    = 100
)

// reporter writes the status of the leader beside the rounds.
type reporter struct {
	kube     kubernetes.Interface
	log      *slog.Logger
	mode     string
	elector  *store.Elector
	syncer   *syncer.Syncer
	requests func() map[string]int64
	budget   *budget
	sampled  func() []authz.Finding // of the last sample and of the configuration
	secrets  func() error           // why hooks can't be checked
	now      func() time.Time
	wake     chan struct{}
	mu       sync.Mutex
	held     int
	hooks    int             // dealt with
	times    []time.Duration // of the last hookTimes of them
}

// add notes that a round has ended.
func (p *reporter) add(r syncer.Round) {
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
	p.rouse()
}

// rouse has the status written soon.
func (p *reporter) rouse() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *reporter) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		}
		if p.elector.May() == nil {
			if err := p.write(ctx); err != nil && ctx.Err() == nil {
				p.log.WarnContext(ctx, "the status was not written", "error", err)
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

func (p *reporter) write(ctx context.Context) error {
	st := p.syncer.State()
	if st == nil { // no round has ended, and nothing is stored: the leader waits
		st = &syncer.State{}
	}
	body, err := json.Marshal(p.status(st))
	if err != nil {
		return err
	}
	return store.Put(ctx, p.kube.CoreV1().ConfigMaps(deploy.Namespace), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
		Name: store.NameStatus, Namespace: deploy.Namespace,
		Labels: map[string]string{"app.kubernetes.io/name": "gl-k8s-integrator"},
	}, Data: map[string]string{statusKey: string(body)}})
}

func (p *reporter) status(st *syncer.State) status {
	r := st.Round
	p.mu.Lock()
	held, hooks := p.held, hookStatus{Count: p.hooks}
	if len(p.times) > 0 {
		sorted := slices.Sorted(slices.Values(p.times))
		hooks.Median, hooks.Slowest = sorted[len(sorted)/2].Round(time.Millisecond).String(), sorted[len(sorted)-1].Round(time.Millisecond).String()
	}
	p.mu.Unlock()
	if err := p.secrets(); err != nil {
		hooks.Refused = clip(err.Error(), statusLength)
	}
	out := status{
		Written: p.now().UTC(), Leader: p.elector.Identity, Mode: p.mode, Held: held, Hooks: hooks, Requests: p.requests(), Budget: map[string]string{},
		Round: roundStatus{
			Cause: r.Cause, Read: r.Kind.Read(), Started: r.Started.UTC(), Duration: r.Duration.Round(time.Millisecond).String(),
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
	if b, ok := p.syncer.Staleness(); ok {
		out.Staleness = map[string]string{
			"everything": b.Everything.Round(time.Second).String(),
			"accounts":   b.Accounts.Round(time.Second).String(), "present accounts": b.Present.Round(time.Second).String(),
			"invitations": p.budget.linksAge().Round(time.Second).String(),
		}
	}
	for kind, share := range p.budget.shares() {
		out.Budget[kind] = fmt.Sprintf("%.0f %%", 100*share)
	}
	for _, f := range slices.Concat(p.sampled(), r.Findings) {
		out.Findings[f.Code]++
		if len(out.Texts) < statusTexts {
			out.Texts = append(out.Texts, clip(f.Code+": "+f.Text, statusLength))
		}
	}
	return out
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}

// Status prints what the leader wrote down, and who leads.
func Status(ctx context.Context, cfg *config.Config, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	cm, err := c.kube.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameStatus, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return errors.New("no integrator has finished a round in this cluster yet: is `serve` running?")
	}
	if err != nil {
		return explainKube(err)
	}
	var st status
	if err := json.Unmarshal([]byte(cm.Data[statusKey]), &st); err != nil {
		return fmt.Errorf("reading the status: %w", err)
	}
	lease, err := c.kube.CoordinationV1().Leases(deploy.Namespace).Get(ctx, store.NameLease, metav1.GetOptions{})
	leader := "nobody"
	if err == nil && lease.Spec.HolderIdentity != nil && *lease.Spec.HolderIdentity != "" {
		leader = *lease.Spec.HolderIdentity
		if t := lease.Spec.RenewTime; t != nil && time.Since(t.Time) > time.Minute {
			leader += fmt.Sprintf(", who has not renewed since %s", t.UTC().Format(time.RFC3339))
		}
	}
	st.print(out, leader, time.Now())
	return nil
}

func (st status) print(out io.Writer, leader string, now time.Time) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(out, "%-16s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("leader", "%s", leader)
	line("mode", "%s", st.Mode)
	r := st.Round
	line("last round", "%s (%s, %d namespaces looked at): %d planned, %d applied, %d failed, %s, at %s", r.Cause, r.Read, r.Spaces, r.Planned, r.Applied, r.Failed, r.Duration, r.Started.Format(time.RFC3339))
	if st.Failing != "" {
		line("FAILING", "since %s: %s", st.Since.Format(time.RFC3339), st.Failing)
	}
	if st.Read.IsZero() {
		line("GitLab read", "never")
	} else {
		line("GitLab read", "%s ago: %s", now.Sub(st.Read).Round(time.Second), counts(st.Sources))
	}
	line("at most old", "%s (when written, %s ago)", list(st.Staleness), now.Sub(st.Written).Round(time.Second))
	line("held changes", "%d", st.Held)
	if st.Hooks.Median == "" {
		line("hooks", "%d dealt with", st.Hooks.Count)
	} else {
		line("hooks", "%d dealt with, from receipt to applied %s (median of the last %d), slowest %s", st.Hooks.Count, st.Hooks.Median, hookTimes, st.Hooks.Slowest)
	}
	if st.Hooks.Refused != "" {
		line("HOOKS REFUSED", "%s", st.Hooks.Refused)
	}
	line("requests", "%s", counts(st.Requests))
	line("of the limits", "%s", list(st.Budget))
	line("findings", "%s", counts(st.Findings))
	for _, t := range st.Texts {
		fmt.Fprintf(out, "  %s\n", t)
	}
}

func counts[N int | int64](m map[string]N) string {
	out := make(map[string]string, len(m))
	for k, v := range m {
		out[k] = fmt.Sprint(v)
	}
	return list(out)
}

func list(m map[string]string) string {
	if len(m) == 0 {
		return "none"
	}
	var out []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, k+" "+m[k])
	}
	return strings.Join(out, ", ")
}

// budget knows how much of GitLab's rate limits the last minute has used.
type budget struct {
	requests func() map[string]int64
	linksAge func() time.Duration
	limits   map[string]float64 // per minute, by kind
	now      func() time.Time

	mu     sync.Mutex
	points []point // one every few seconds, of the last minute
}

type point struct {
	at     time.Time
	counts map[string]int64
}

// sample notes how many requests there were so far.
func (b *budget) sample() {
	p := point{b.now(), b.requests()}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.points = append(b.points, p)
	for len(b.points) > 1 && p.at.Sub(b.points[1].at) >= time.Minute {
		b.points = b.points[1:]
	}
}

// shares returns the used share of each limit.
func (b *budget) shares() map[string]float64 {
	b.sample()
	b.mu.Lock()
	defer b.mu.Unlock()
	first, last := b.points[0], b.points[len(b.points)-1]
	out := map[string]float64{}
	for kind, limit := range b.limits {
		if n := last.counts[kind] - first.counts[kind]; n > 0 {
			out[kind] = float64(n) / limit
		}
	}
	return out
}

func (b *budget) run(ctx context.Context) {
	t := time.NewTicker(5 * time.Second)
	defer t.Stop()
	for {
		b.sample()
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
