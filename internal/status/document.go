package status

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// document is what the leader writes down about itself after its rounds, and `status` shows.
type document struct {
	Written   time.Time         `json:"written"`
	Leader    string            `json:"leader"`
	Mode      string            `json:"mode"`
	Read      time.Time         `json:"read"` // when the last full reading of GitLab was begun
	Round     RoundSummary      `json:"round"`
	Failing   string            `json:"failing,omitempty"` // the error, while rounds fail
	Since     time.Time         `json:"since,omitzero"`
	Staleness map[string]string `json:"staleness,omitempty"`
	Held      int               `json:"held"`
	Findings  map[string]int    `json:"findings,omitempty"` // by code
	Texts     []string          `json:"texts,omitempty"`    // of findings
	Requests  map[string]int64  `json:"requests,omitempty"` // to GitLab, by kind, since the leader's start
	Budget    map[string]string `json:"budget,omitempty"`   // share of GitLab's limits in the last minute
	Sources   map[string]int    `json:"sources,omitempty"`
	Hooks     hookSummary       `json:"hooks"`
	NoLogins  bool              `json:"noLogins,omitempty"` // kube-apiserver judges tokens by itself
	NoHooks   bool              `json:"noHooks,omitempty"`  // there is no listener for them
}

// hookSummary says how long it took from the receipt of hooks until they were dealt with, of the last hookTimes of them.
type hookSummary struct {
	Count   int    `json:"count"` // since the leader's start
	Median  string `json:"median,omitempty"`
	Slowest string `json:"slowest,omitempty"`
	Refused string `json:"refused,omitempty"` // why the leader can't check hooks
}

// RoundSummary is the last round that could read GitLab and the cluster.
type RoundSummary struct {
	Cause      string    `json:"cause"`
	Read       string    `json:"read"`
	Started    time.Time `json:"started"`
	Duration   string    `json:"duration"`
	Namespaces int       `json:"namespaces"`
	Planned    int       `json:"planned"`
	Applied    int       `json:"applied"`
	Failed     int       `json:"failed"`
}

const (
	documentKey = "status.json" // in the ConfigMap
	hookTimes   = 100
)

// shown is all that `status` shows, and its form for programs.
type shown struct {
	Summary  string   `json:"summary"` // one line for people
	Leads    Leader   `json:"leads"`
	Activity Activity `json:"activity"`
	Document document `json:"status"`

	activityKnown bool // an older version writes none
}

// summary says in one line whether it works, and what arrived last.
func (s shown) summary(now time.Time) string {
	st := s.Document
	state := st.Mode
	switch {
	case s.Leads.Holder == "" || s.Leads.Old(now):
		state = "NOBODY LEADS"
	case st.Failing != "":
		state = "FAILING"
	}
	login, hook := "last login "+s.Activity.Login.ago(now), "last hook "+s.Activity.Hook.ago(now)
	if st.NoLogins {
		login = "kube-apiserver judges logins"
	}
	if st.NoHooks {
		hook = "no hooks"
	}
	parts := []string{state, login, hook, "GitLab read " + Seen{At: st.Read}.ago(now)}
	if st.Held > 0 {
		parts = append(parts, fmt.Sprintf("%d held", st.Held))
	}
	total := 0
	for _, n := range st.Findings {
		total += n
	}
	if total == 1 {
		return strings.Join(append(parts, "1 finding"), " · ")
	}
	return strings.Join(append(parts, fmt.Sprintf("%d findings", total)), " · ")
}

// print shows all to people.
func (s shown) print(out io.Writer, now time.Time) {
	fmt.Fprintln(out, s.Summary)
	leader := cmp.Or(s.Leads.Holder, "nobody")
	if s.Leads.Old(now) {
		leader += ", who has not renewed since " + s.Leads.Renewed.UTC().Format(time.RFC3339)
	}
	s.Document.print(out, leader, s.Activity, now)
}

// print shows the document to people. leader is who leads now.
func (st document) print(out io.Writer, leader string, a Activity, now time.Time) {
	line := func(what, format string, args ...any) {
		fmt.Fprintf(out, "%-16s %s\n", what, fmt.Sprintf(format, args...))
	}
	line("leader", "%s", leader)
	line("mode", "%s", st.Mode)
	if !st.NoLogins {
		line("last login", "%s", a.Login.Text(now))
	}
	if !st.NoHooks {
		line("last hook", "%s", a.Hook.Text(now))
		if a.Refused.At.After(a.Hook.At) {
			line("hook refused", "%s", a.Refused.Text(now))
		}
	}
	r := st.Round
	line("last round", "%s (%s, %d namespaces looked at): %d planned, %d applied, %d failed, %s, at %s", r.Cause, r.Read, r.Namespaces, r.Planned, r.Applied, r.Failed, r.Duration, r.Started.Format(time.RFC3339))
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

// Show prints the document that is in the cluster, who leads, and what arrived last.
func Show(ctx context.Context, kube kubernetes.Interface, out io.Writer) error {
	now := time.Now()
	s, err := toShow(ctx, kube, now)
	if err != nil {
		return err
	}
	s.print(out, now)
	return nil
}

// ShowJSON prints the same for programs.
func ShowJSON(ctx context.Context, kube kubernetes.Interface, out io.Writer) error {
	s, err := toShow(ctx, kube, time.Now())
	if err != nil {
		return err
	}
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(s)
}

func toShow(ctx context.Context, kube kubernetes.Interface, now time.Time) (shown, error) {
	s, err := stored(ctx, kube)
	if err != nil {
		return s, err
	}
	s.Leads, _ = leads(ctx, kube) // who may not see the Lease sees nobody lead
	s.Summary = s.summary(now)
	return s, nil
}

// leaseOld is after which time without a renewal nobody leads any more.
const leaseOld = time.Minute

// ErrNone says that no round has ended in this cluster.
var ErrNone = errors.New("no integrator has finished a round in this cluster yet: is `serve` running?")

func stored(ctx context.Context, kube kubernetes.Interface) (shown, error) {
	cm, err := kube.CoreV1().ConfigMaps(deploy.Namespace).Get(ctx, store.NameStatus, metav1.GetOptions{})
	if err == nil {
		err = store.Readable(cm)
	}
	if apierrors.IsNotFound(err) || err == nil && cm.Data[documentKey] == "" {
		return shown{}, ErrNone
	}
	if err != nil {
		return shown{}, err
	}
	s := shown{Activity: activityOf(cm)}
	if err := json.Unmarshal([]byte(cm.Data[documentKey]), &s.Document); err != nil {
		return shown{}, fmt.Errorf("reading the status: %w", err)
	}
	s.activityKnown = cm.Data[activityKey] != ""
	return s, nil
}

// Leader is who leads, by the Lease.
type Leader struct {
	Holder  string    `json:"holder"`           // "" if nobody does
	Renewed time.Time `json:"renewed,omitzero"` // zero if that is not known
}

// Old reports whether the Lease was not renewed for so long that nobody leads.
func (l Leader) Old(now time.Time) bool { return !l.Renewed.IsZero() && now.Sub(l.Renewed) > leaseOld }

func leads(ctx context.Context, kube kubernetes.Interface) (Leader, error) {
	lease, err := kube.CoordinationV1().Leases(deploy.Namespace).Get(ctx, store.NameLease, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return Leader{}, nil
	}
	if err != nil {
		return Leader{}, err
	}
	var l Leader
	if lease.Spec.HolderIdentity != nil {
		l.Holder = *lease.Spec.HolderIdentity
	}
	if t := lease.Spec.RenewTime; t != nil {
		l.Renewed = t.Time
	}
	return l, nil
}

// Summary is what the leader wrote down, and who leads, for programs.
type Summary struct {
	Leader
	Mode         string
	Written      time.Time
	Read         time.Time // when the last full reading of GitLab was begun; zero: never
	Failing      string    // the error, while rounds fail
	Since        time.Time // when they began to
	Round        RoundSummary
	Sources      map[string]int    // how many were read, by kind
	Staleness    map[string]string // how old at most what is known is, when it was written
	Requests     map[string]int64  // to GitLab, by kind, since the leader's start
	Budget       map[string]string // share of GitLab's limits in the last minute; what used nothing is not there
	NoLogins     bool              // kube-apiserver judges tokens by itself
	NoHooks      bool              // there is no listener for them
	HookMedian   string            // from the receipt of a hook until it was dealt with; "": there was none
	HookSlowest  string
	Held         int
	Findings     map[string]int // by code
	Texts        []string
	Hooks        int       // dealt with since the leader's start
	HooksRefused string    // why the leader can't check hooks
	Activity     *Activity // nil: it is not known
}

// Read returns the Summary of what is in the cluster; ErrNone if no round has ended.
func Read(ctx context.Context, kube kubernetes.Interface) (Summary, error) {
	all, err := stored(ctx, kube)
	if err != nil {
		return Summary{}, err
	}
	l, err := leads(ctx, kube)
	st := all.Document
	out := Summary{
		Leader: l, Mode: st.Mode, Written: st.Written, Read: st.Read, Failing: st.Failing, Held: st.Held,
		Findings: st.Findings, Texts: st.Texts, Hooks: st.Hooks.Count, HooksRefused: st.Hooks.Refused,
		Since: st.Since, Round: st.Round, Sources: st.Sources, Staleness: st.Staleness, Requests: st.Requests, Budget: st.Budget,
		NoLogins: st.NoLogins, NoHooks: st.NoHooks, HookMedian: st.Hooks.Median, HookSlowest: st.Hooks.Slowest,
	}
	if all.activityKnown {
		out.Activity = &all.Activity
	}
	return out, err
}
