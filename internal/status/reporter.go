package status

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

const (
	writeEvery = 5 * time.Second // at most
	maxTexts   = 50
	maxText    = 300 // bytes of one text
)

// Engine is what the document is made from; see syncer.Syncer.
type Engine interface {
	State() *syncer.State
	Staleness() (syncer.Staleness, bool)
}

// Options are what a Reporter needs. All fields are required.
type Options struct {
	Kube    kubernetes.Interface
	Mode    func() string  // of the configuration that is in use
	Elector *store.Elector // only the leader writes
	Engine  Engine
	Rounds  *Rounds
	Budget  *Budget
	// Findings returns those that no round makes.
	Findings func() []authz.Finding
	// NoLogins and NoHooks say that none come here by the configuration.
	NoLogins, NoHooks bool
	// HooksRefused returns why hooks can't be checked, nil if they can.
	HooksRefused func() error
	Now          func() time.Time
	Logger       *slog.Logger
}

// Reporter writes the document of the leader beside the rounds.
type Reporter struct{ o Options }

// NewReporter returns a Reporter; Run makes it write.
func NewReporter(o Options) *Reporter { return &Reporter{o: o} }

// Run writes the document when Rounds have changed, until ctx is done.
func (p *Reporter) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.o.Rounds.changed:
		}
		if p.o.Elector.May() == nil {
			if err := p.write(ctx); err != nil && ctx.Err() == nil {
				p.o.Logger.WarnContext(ctx, "the status was not written", "error", err)
			}
		}
		t := time.NewTimer(writeEvery)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
	}
}

func (p *Reporter) write(ctx context.Context) error {
	body, err := json.Marshal(p.document())
	if err != nil {
		return err
	}
	return setKey(ctx, p.o.Kube, documentKey, string(body), "")
}

// document returns what there is to say now.
func (p *Reporter) document() document {
	st := p.o.Engine.State()
	if st == nil { // no round has ended, and nothing is stored: the leader waits
		st = &syncer.State{}
	}
	r := st.Round
	held, hooks, waiting := p.o.Rounds.summary()
	if err := p.o.HooksRefused(); err != nil {
		hooks.Refused = clip(err.Error(), maxText)
	}
	out := document{
		NoLogins: p.o.NoLogins, NoHooks: p.o.NoHooks,
		Written: p.o.Now().UTC(), Leader: p.o.Elector.Identity, Mode: p.o.Mode(), Held: held, Hooks: hooks, Requests: p.o.Budget.Requests(), Budget: map[string]string{},
		Round: RoundSummary{
			Cause: r.Cause, Read: r.Kind.Read(), Started: r.Started.UTC(), Duration: r.Duration.Round(time.Millisecond).String(),
			Namespaces: r.Namespaces, Planned: len(r.Plan), Applied: r.Report.Applied, Failed: r.Unwritten,
		},
		Findings: map[string]int{}, Sources: map[string]int{},
	}
	if st.Err != nil {
		out.Failing, out.Since = clip(st.Err.Error(), 3*maxText), st.Since.UTC()
	}
	if s := st.View.Snapshot; s != nil {
		out.Read = s.Taken
		out.Sources = map[string]int{"groups": len(s.Groups), "projects": len(s.Projects), "users": len(s.Users), "unread": len(s.Missing), "namespaces": len(st.View.Namespace)}
	}
	if b, ok := p.o.Engine.Staleness(); ok {
		out.Staleness = map[string]string{
			"everything": b.Everything.Round(time.Second).String(),
			"accounts":   b.Accounts.Round(time.Second).String(), "present accounts": b.Present.Round(time.Second).String(),
		}
		if age := p.o.Budget.LinksAge(); age > 0 { // there are some
			out.Staleness["invitations"] = age.Round(time.Second).String()
		}
	}
	for kind, share := range p.o.Budget.Shares() {
		if share > 0 {
			out.Budget[kind] = fmt.Sprintf("%.0f %%", 100*share)
		}
	}
	for _, f := range slices.Concat(waiting, p.o.Findings(), r.Findings) {
		out.Findings[f.Code]++
		if len(out.Texts) < maxTexts {
			out.Texts = append(out.Texts, clip(f.Code+": "+f.Text, maxText))
		}
	}
	return out
}

// clip cuts a text down to n bytes.
func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return s
}
