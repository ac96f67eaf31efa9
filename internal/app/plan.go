package app

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/audit"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/fence"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/cluster"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/intake"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/preview"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// PlanView says what of a plan is shown, and how. The zero value shows all of it as text.
type PlanView struct {
	Namespace string // only this one
	User      string // only this person: name or id in GitLab
	Output    string // "", text, json or yaml
	Colour    string // "", auto, always or never
	Offline   string // a file that SaveSnapshot wrote, instead of GitLab and the cluster
}

// Check says which value there is not.
func (v PlanView) Check() error {
	switch v.Output {
	case "", "text", "json", "yaml":
	default:
		return fmt.Errorf("--output: want text, json or yaml, not %q", v.Output)
	}
	switch v.Colour {
	case "", "auto", "always", "never":
	default:
		return fmt.Errorf("--color: want auto, always or never, not %q", v.Colour)
	}
	return nil
}

// Plan reads GitLab and the cluster, or a file, prints what would change, and returns how many changes of the cluster that
// are, whatever of them is shown. It writes nothing anywhere. Progress is told how far the reading is.
func Plan(ctx context.Context, cfg *config.Config, log *slog.Logger, out, progress io.Writer, v PlanView) (changes int, err error) {
	var r syncer.Round
	var t ci.Terms
	if v.Offline != "" {
		r, t, err = planOffline(ctx, cfg, log, v.Offline)
	} else {
		var c *clients
		if c, err = connect(cfg); err == nil {
			if r, err = once(ctx, cfg, c, syncer.ModePlan, log, progress); err == nil {
				t, err = terms(ctx, cfg, c, r, log, progress)
			}
		}
	}
	if err != nil {
		return 0, err
	}
	return len(r.Plan), show(out, cfg, r, t, v)
}

// Sync does one full round, CI credentials included, and prints what was done. While it reads and writes, progress is told how
// far it is.
func Sync(ctx context.Context, cfg *config.Config, log *slog.Logger, out, progress io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	if err := fence.Ready(ctx, c.kube, cfg); err != nil {
		return err
	}
	if err := store.Known(ctx, c.kube, deploy.Namespace); err != nil {
		return kubeerror.Explain(err)
	}
	r, err := once(ctx, cfg, c, syncer.ModeEnforce, log, progress)
	if r.Compared() {
		d, madeErr := document(cfg, r, cfg.CI.Environment, r.CI.Handed)
		if madeErr != nil {
			return madeErr
		}
		fmt.Fprint(out, d.Text(inColour(out, "")))
		fmt.Fprintf(out, "cluster: %d of %d changes made; CI: %d new tokens, %d projects written to in GitLab\n", r.Report.Applied, len(r.Plan), r.CI.Issued, r.CI.Delivered)
		printFindings(out, r.Findings)
	}
	return err
}

// singleRound says what a round of a command is made for.
type singleRound struct {
	mode     syncer.Mode
	written  func(syncer.Written) // nil: it is in no history
	recorded bool                 // see engineParts
}

// oneRound returns the options of a single round.
func oneRound(cfg *config.Config, c *clients, r singleRound, log *slog.Logger, progress io.Writer) (syncer.Options, error) {
	client, requests := counting(c.gitlabHTTP)
	reader, err := newReader(cfg, client, log)
	if err != nil {
		return syncer.Options{}, err
	}
	roles, err := newRoles(cfg, c)
	if err != nil {
		return syncer.Options{}, err
	}
	var bar func(cluster.Progress)
	if r.mode == syncer.ModeEnforce {
		bar = progressBar(progress)
	}
	return engineOptions(cfg, c, log, engineParts{
		mode: r.mode, reader: reader, roles: roles, progress: bar, written: r.written, recorded: r.recorded,
		fence: func(ctx context.Context) error { return fence.Check(ctx, c.kube) },
		wrap: func(from intake.Reader) intake.Reader {
			return progressReader{Reader: from, to: progress, requests: requests}
		},
	})
}

func once(ctx context.Context, cfg *config.Config, c *clients, mode syncer.Mode, log *slog.Logger, progress io.Writer) (syncer.Round, error) {
	history := audit.NewWriter(audit.Options{Kube: c.kube, Limits: func() audit.Limits { return historyLimits(cfg) }, Now: time.Now, Log: log})
	o, err := oneRound(cfg, c, singleRound{mode: mode, written: history.Take}, log, progress)
	if err != nil {
		return syncer.Round{}, err
	}
	s, err := syncer.New(o)
	if err != nil {
		return syncer.Round{}, err
	}
	r, err := s.Once(ctx, "command")
	if mode == syncer.ModeEnforce {
		_ = history.Flush(ctx)
	}
	if err != nil {
		return r, kubeerror.Explain(err)
	}
	sample, err := newSampler(cfg, c.gitlabHTTP, log, nil)
	if err != nil {
		return r, err
	}
	r.Findings = append(append(r.Findings, sample.Sample(ctx, r.Snapshot)...), explainFindings(cfg.Authz.Explain)...)
	return r, nil
}

// terms returns what has to be known for telling what CI jobs would be given after a round that wrote nothing. It reads what
// the cluster keeps of each namespace.
func terms(ctx context.Context, cfg *config.Config, c *clients, r syncer.Round, log *slog.Logger, progress io.Writer) (ci.Terms, error) {
	if cfg.GitLab.WriteTokenFile == "" { // nobody would write to GitLab
		return termsOf(cfg, store.Recorded{}, r.Started), nil
	}
	p, err := newProvisioner(cfg, c, log)
	if err != nil {
		return ci.Terms{}, err
	}
	id, err := ci.ClusterID(ctx, c.kube)
	if err != nil {
		return ci.Terms{}, kubeerror.Explain(err)
	}
	fmt.Fprintf(progress, "reading what CI jobs were given in %d namespaces\n", len(r.PlannedOn.Jobs))
	known, err := p.Known(ctx, r.PlannedOn.Jobs)
	if err != nil {
		return ci.Terms{}, kubeerror.Explain(err)
	}
	return termsOf(cfg, store.Recorded{Cluster: id, CA: len(known.API.CA) > 0, Scope: cfg.CI.Environment, Known: &known}, r.Started), nil
}

// termsOf returns the Terms of a configuration, with what was found out about the cluster and about what CI jobs were given.
// It does not look at the Recording in that.
func termsOf(cfg *config.Config, found store.Recorded, now time.Time) ci.Terms {
	t := ci.Terms{
		Scope: cfg.CI.Environment, Name: clusterName(cfg), Replaces: cfg.Cluster.Replaces, AgentCA: cfg.GitLab.CAFile != "",
		Cluster: found.Cluster, CA: found.CA, Shown: found.Scope, Known: found.Known, Now: now,
	}
	if cfg.Authn.CI != nil {
		t.Audience = cfg.Authn.CI.Audience
	}
	if a := cfg.CI.Agent; a != nil {
		t.Agent = &ci.Agent{ID: a.ID, URL: a.KASURL}
	}
	if t.Known != nil && cfg.Cluster.PublicURL != "" { // a file may have been made with another configuration
		known := *t.Known
		known.API.URL = cfg.Cluster.PublicURL
		t.Known = &known
	}
	return t
}

// document tells of a round, and of what CI jobs are given in an environment.
func document(cfg *config.Config, r syncer.Round, environment string, handed []ci.Handover) (preview.Document, error) {
	policy, err := cfg.Authz.Policy()
	if err != nil {
		return preview.Document{}, err
	}
	in := preview.Input{
		Plan: r.Plan, Held: r.Held, Findings: r.Findings, Observed: r.PlannedOn.Observed, Snapshot: r.Snapshot, Policy: policy, Names: r.Names,
		Before: r.PlannedOn.Before, Was: r.PlannedOn.Was, Now: r.Started,
	}
	for _, h := range handed {
		id := authz.ProjectID(h.Project)
		path, _ := r.Snapshot.Path(id)
		in.Deliveries = append(in.Deliveries, preview.Delivery{
			Project: id.String(), Path: path, Namespace: h.Namespace, Mode: string(h.Delivery), Environment: environment, Protected: h.Protected,
			Write: h.Write, Change: h.Change, Why: h.Why, Remove: h.Remove, RemoveFrom: h.Scope, Integration: h.Integration != "", IntegrationAction: string(h.Integration),
			ExplanationAction: string(h.Explanation), InTheWay: h.Foreign, OtherOwner: h.Other, Unread: h.Unread,
		})
	}
	return preview.New(in), nil
}

// forecast tells of a round that wrote nothing, and of what CI jobs would be given after it.
func forecast(cfg *config.Config, r syncer.Round, t ci.Terms) (preview.Document, error) {
	if t.Known != nil {
		r.Findings = append(slices.Clone(r.Findings), t.Known.Findings...)
	}
	var handed []ci.Handover
	if cfg.GitLab.WriteTokenFile != "" {
		handed = ci.Handovers(r.PlannedOn.Jobs, r.Snapshot, t)
	}
	return document(cfg, r, t.Scope, handed)
}

// forPrograms prints a document as JSON or YAML, if that is the output that was asked for.
func forPrograms(out io.Writer, output string, d any) (done bool, err error) {
	switch output {
	case "json":
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return true, e.Encode(d)
	case "yaml":
		data, err := yaml.Marshal(d)
		if err != nil {
			return true, fmt.Errorf("writing it as YAML: %w", err)
		}
		_, err = out.Write(data)
		return true, err
	}
	return false, nil
}

// show prints a plan as it was asked for.
func show(out io.Writer, cfg *config.Config, r syncer.Round, t ci.Terms, v PlanView) error {
	all, err := forecast(cfg, r, t)
	if err != nil {
		return err
	}
	filter := preview.Filter{Namespace: v.Namespace}
	if filter.User, err = userOf(v.User, r); err != nil {
		return err
	}
	d := all.Only(filter)
	if done, err := forPrograms(out, v.Output, d); done {
		return err
	}
	if filter != (preview.Filter{}) {
		if len(d.Namespaces) == 0 {
			fmt.Fprintln(out, "Nothing is planned there.")
		}
		defer fmt.Fprintln(out, "The numbers are those of the whole plan.")
	}
	fmt.Fprint(out, d.Text(inColour(out, v.Colour)))
	for _, f := range d.Findings {
		fmt.Fprintf(out, "finding %s: %s\n", f.Code, f.Text)
	}
	return nil
}

// userOf finds the person that is meant: by id, by the name in Kubernetes, or by the user name; 0 for "".
func userOf(text string, r syncer.Round) (int64, error) {
	if text == "" {
		return 0, nil
	}
	known := []*authz.Snapshot{r.Snapshot}
	if r.PlannedOn.Before != nil {
		known = append(known, r.PlannedOn.Before)
	}
	id, err := strconv.ParseInt(text, 10, 64)
	byID := err == nil
	if n, ok := kubename.ParseUser(text); ok {
		id, byID = n, true
	}
	for _, s := range known {
		if _, ok := s.Users[id]; byID && ok {
			return id, nil
		}
		for id, u := range s.Users {
			if strings.EqualFold(u.Username, text) {
				return id, nil
			}
		}
	}
	return 0, fmt.Errorf("--user: GitLab has no account with the name or id %q", text)
}

// inColour reports whether text for w has colours: on a terminal, unless NO_COLOR is set (https://no-color.org) or it is a
// dumb one.
func inColour(w io.Writer, want string) bool {
	switch want {
	case "always":
		return true
	case "never":
		return false
	}
	return isTerminal(w) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}

func printFindings(out io.Writer, findings []authz.Finding) {
	for _, f := range findings {
		fmt.Fprintf(out, "finding %s: %s\n", f.Code, f.Text)
	}
}
