package metrics

import (
	"math"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/status"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/syncer"
)

// Metrics are the program's numbers. No label holds anything that a user of GitLab can choose.
type Metrics struct {
	Registry *prometheus.Registry // takes further ones

	reviews   *prometheus.CounterVec
	latency   prometheus.Histogram
	refused   *prometheus.CounterVec
	closed    *prometheus.CounterVec
	rounds    *prometheus.CounterVec
	lastRound prometheus.Gauge
	duration  prometheus.Gauge
	planned   prometheus.Gauge
	findings  *findings
	held      prometheus.Gauge
	drift     prometheus.Counter
	hooks     prometheus.Histogram
	received  *prometheus.CounterVec
	hooksOver *prometheus.CounterVec
	configOK  prometheus.Gauge
	configAt  prometheus.Gauge
}

// New returns the numbers of a process that has done nothing yet, with further ones.
func New(more ...prometheus.Collector) *Metrics {
	const ns = "gl_k8s_integrator"
	m := &Metrics{
		Registry: prometheus.NewRegistry(),
		reviews: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "reviews_total",
			Help: "Token reviews by outcome, reason code and kind of token.",
		}, []string{"outcome", "reason", "kind"}),
		latency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: ns, Name: "review_seconds",
			Help: "Time taken to answer a token review.", Buckets: prometheus.ExponentialBuckets(0.00005, 3, 10),
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "overload_total",
			Help: "Requests answered 503 because too many were under way.",
		}, []string{"listener"}),
		closed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "connections_closed_total",
			Help: "Connections that were closed because the listener had too many.",
		}, []string{"listener"}),
		rounds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: ns, Name: "rounds_total",
			Help: "Rounds of the sync engine by how much was read and how they ended.",
		}, []string{"read", "result"}),
		lastRound: prometheus.NewGauge(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_good_round_timestamp_seconds",
			Help: "When the last round without a fault ended.",
		}),
		duration: prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "round_seconds", Help: "Duration of the last round."}),
		planned:  prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "planned_changes", Help: "Changes in the last plan."}),
		findings: newFindings(ns),
	}
	m.held = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "held_changes", Help: "Changes that limits hold back until somebody approves them."})
	m.drift = prometheus.NewCounter(prometheus.CounterOpts{Namespace: ns, Name: "drift_restored_total", Help: "Objects that were put back after somebody else changed them."})
	m.hooks = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: ns, Name: "hook_to_applied_seconds",
		Help: "Time from the receipt of a hook to the end of the round that dealt with it.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 14),
	})
	m.hooksOver = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: ns, Name: "hooks_over_limit_total",
		Help: "Hooks that were too many at a time: read_everything were taken together, refused were answered 503, given_up had a signature alone and were not read to their end.",
	}, []string{"outcome"})
	m.received = prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: ns, Name: "hooks_total",
		Help: "Hooks by what became of them: taken, repeated (taken before), ignored (not about rights); refused: no_proof (wrong secret or signature), malformed, no_secret (ours can't be read), not_stored, overload.",
	}, []string{"outcome"})
	m.configOK = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "config_last_reload_successful", Help: "1 if the configuration file as it is now is in use, 0 if an earlier one is."})
	m.configAt = prometheus.NewGauge(prometheus.GaugeOpts{Namespace: ns, Name: "config_last_reload_success_timestamp_seconds", Help: "When the configuration in use was taken over."})
	m.Registry.MustRegister(m.configOK, m.configAt, m.held, m.drift, m.hooks, m.received, m.hooksOver, m.reviews, m.latency, m.refused, m.closed, m.rounds, m.lastRound, m.duration, m.planned, m.findings,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.Registry.MustRegister(more...)
	return m
}

// Keys adds the numbers of GitLab's signing keys.
func (m *Metrics) Keys(status func() authn.KeyStatus, now func() time.Time) {
	const ns = "gl_k8s_integrator"
	m.Registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "signing_keys",
			Help: "GitLab's signing keys that are known.",
		}, func() float64 { return float64(status().Keys) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "signing_keys_age_seconds",
			Help: "Time since GitLab's signing keys were last read, by this process or the one before; NaN: never.",
		}, func() float64 {
			s := status()
			if s.Fetched.IsZero() {
				return math.NaN()
			}
			return now().Sub(s.Fetched).Seconds()
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: ns, Name: "signing_key_fetches_total",
			Help: "Attempts to read GitLab's signing keys.",
		}, func() float64 { return float64(status().Fetches) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: ns, Name: "signing_key_fetch_failures_total",
			Help: "Attempts to read GitLab's signing keys that failed.",
		}, func() float64 { return float64(status().Failures) }),
	)
}

// Engine adds the numbers that are asked for when they are read.
func (m *Metrics) Engine(staleness func() (syncer.Staleness, bool), e *store.Elector, b *status.Budget) {
	const ns = "gl_k8s_integrator"
	stale := func(what string, of func(syncer.Staleness) time.Duration) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "staleness_seconds", ConstLabels: prometheus.Labels{"of": what},
			Help: "How old what rights are made from is at most: everything (links, transfers, lost hooks), states of accounts, and those of accounts seen lately; NaN: nothing is known.",
		}, func() float64 {
			x, ok := staleness()
			if !ok {
				return math.NaN()
			}
			return of(x).Seconds()
		})
	}
	m.Registry.MustRegister(
		stale("everything", func(x syncer.Staleness) time.Duration { return x.Everything }),
		stale("accounts", func(x syncer.Staleness) time.Duration { return x.Accounts }),
		stale("present_accounts", func(x syncer.Staleness) time.Duration { return x.Present }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "snapshot_age_seconds",
			Help: "Time since the last complete reading of GitLab was begun, by this process or the leader; NaN: nothing is known.",
		}, func() float64 {
			x, ok := staleness()
			if !ok {
				return math.NaN()
			}
			return x.Everything.Seconds()
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "leader", Help: "1 while this process leads."}, func() float64 {
			if e.May() == nil {
				return 1
			}
			return 0
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: ns, Name: "gitlab_links_age_seconds", Help: "Since the oldest level or end date of a group invited into a group was read."},
			func() float64 { return b.LinksAge().Seconds() }),
		requestCounter{
			b, prometheus.NewDesc(ns+"_gitlab_requests_total", "Requests to GitLab by kind, repetitions included.", []string{"kind"}, nil),
			prometheus.NewDesc(ns+"_gitlab_budget_share", "Share of GitLab's default rate limits that the last minute used, by kind.", []string{"kind"}, nil),
		},
	)
}

// requestCounter collects the numbers of requests to GitLab.
type requestCounter struct {
	b               *status.Budget
	requests, share *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c requestCounter) Describe(out chan<- *prometheus.Desc) { out <- c.requests; out <- c.share }

// Collect implements prometheus.Collector.
func (c requestCounter) Collect(out chan<- prometheus.Metric) {
	for kind, n := range c.b.Requests() {
		out <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(n), kind)
	}
	for kind, share := range c.b.Shares() {
		out <- prometheus.MustNewConstMetric(c.share, prometheus.GaugeValue, share, kind)
	}
}

// Activity adds when somebody was let in last, and when a hook came last; last is asked each time.
func (m *Metrics) Activity(last func() status.Activity) {
	const (
		ns    = "gl_k8s_integrator"
		known = ", by what this process saw, and what any had written down when it began or last wrote; 0: never."
	)
	unix := func(s status.Seen) float64 {
		if s.At.IsZero() {
			return 0
		}
		return float64(s.At.Unix())
	}
	m.Registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_login_timestamp_seconds", Help: "When the webhook took a token for somebody's last" + known,
		}, func() float64 { return unix(last().Login) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: ns, Name: "last_hook_timestamp_seconds", Help: "When a hook with our secret or signature came last" + known,
		}, func() float64 { return unix(last().Hook) }),
	)
}

// Review takes in a token review.
func (m *Metrics) Review(r authn.Review) {
	m.reviews.WithLabelValues(string(r.Outcome), string(r.Code), string(r.Kind)).Inc()
	m.latency.Observe(r.Duration.Seconds())
}

// ExpectHooks shows hooks of these outcomes from the start, so that none at all can be told from no listener.
func (m *Metrics) ExpectHooks(outcomes ...string) {
	for _, o := range outcomes {
		m.received.WithLabelValues(o)
	}
}

// Hook takes in what became of a hook; see gitlab.Hook.
func (m *Metrics) Hook(outcome string) { m.received.WithLabelValues(outcome).Inc() }

// HookOverLimit takes in a hook that was over a limit; see gitlab.Hook.
func (m *Metrics) HookOverLimit(outcome string) { m.hooksOver.WithLabelValues(outcome).Inc() }

// Overflow returns what takes in a request that a listener refused, because it had too many.
func (m *Metrics) Overflow(listener string) func() {
	c := m.refused.WithLabelValues(listener)
	return c.Inc
}

// Rejected returns what takes in a connection that a listener closed, because it had too many.
func (m *Metrics) Rejected(listener string) func() {
	c := m.closed.WithLabelValues(listener)
	return c.Inc
}

// Round takes in a round, with further findings of now.
func (m *Metrics) Round(r syncer.Round, further ...authz.Finding) {
	result := "ok"
	if r.Err != nil {
		result = "failed"
	} else {
		m.lastRound.Set(float64(r.Started.Add(r.Duration).Unix()))
	}
	m.rounds.WithLabelValues(r.Kind.Read(), result).Inc()
	for _, t := range r.Done {
		if !t.At.IsZero() {
			m.hooks.Observe(max(0, r.Started.Add(r.Duration).Sub(t.At).Seconds()))
		}
	}
	if !r.Compared() { // a failed one, or one that put back drift
		if r.Kind == syncer.KindDrift {
			m.drift.Add(float64(r.Report.Applied))
		}
		return
	}
	m.held.Set(float64(len(r.Held)))
	m.duration.Set(r.Duration.Seconds())
	m.planned.Set(float64(len(r.Plan)))
	m.findings.replace(slices.Concat(r.Findings, further))
}

// ConfigTaken takes in that a configuration is in use from now on.
func (m *Metrics) ConfigTaken(now time.Time) {
	m.configOK.Set(1)
	m.configAt.Set(float64(now.Unix()))
}

// ConfigDiffers takes in whether the file holds another configuration than the one in use.
func (m *Metrics) ConfigDiffers(differs bool) {
	m.configOK.Set(1)
	if differs {
		m.configOK.Set(0)
	}
}

// Waits takes in what the leader waits for, nil when it has begun.
func (m *Metrics) Waits(f *authz.Finding) {
	var all []authz.Finding // those of the rounds come with the next one
	if f != nil {
		all = append(all, *f)
	}
	m.findings.replace(all)
}

// Handler answers /metrics.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{Timeout: 10 * time.Second})
}
