package app

import (
	"math"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authn"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// metrics are the program's numbers. No label holds anything that a user of GitLab can choose.
type metrics struct {
	registry  *prometheus.Registry
	reviews   *prometheus.CounterVec
	latency   prometheus.Histogram
	refused   *prometheus.CounterVec
	rounds    *prometheus.CounterVec
	lastRound prometheus.Gauge
	duration  prometheus.Gauge
	planned   prometheus.Gauge
	findings  *prometheus.GaugeVec
}

func newMetrics() *metrics {
	const ns = "gl_k8s_integrator"
	m := &metrics{
		registry: prometheus.NewRegistry(),
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
		findings: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: ns, Name: "findings",
			Help: "Findings of the last round by code.",
		}, []string{"code"}),
	}
	m.registry.MustRegister(m.reviews, m.latency, m.refused, m.rounds, m.lastRound, m.duration, m.planned, m.findings,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// keys adds the numbers of GitLab's signing keys.
func (m *metrics) keys(status func() authn.KeyStatus, now func() time.Time) {
	const ns = "gl_k8s_integrator"
	m.registry.MustRegister(
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

func (m *metrics) review(r authn.Review) {
	m.reviews.WithLabelValues(string(r.Outcome), string(r.Code), string(r.Kind)).Inc()
	m.latency.Observe(r.Duration.Seconds())
}

func (m *metrics) overflow(listener string) func() {
	c := m.refused.WithLabelValues(listener)
	return c.Inc
}

func (m *metrics) round(r rbacsync.Round) {
	result := "ok"
	if r.Err != nil {
		result = "failed"
	} else {
		m.lastRound.Set(float64(r.Started.Add(r.Duration).Unix()))
	}
	m.rounds.WithLabelValues(r.Read, result).Inc()
	m.duration.Set(r.Duration.Seconds())
	m.planned.Set(float64(len(r.Plan)))
	m.findings.Reset()
	for _, f := range r.Findings {
		m.findings.WithLabelValues(f.Code).Inc()
	}
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{Timeout: 10 * time.Second})
}
