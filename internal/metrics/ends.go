package metrics

import (
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/expiry"
)

// Ends adds when certificates and tokens end; ends is asked each time.
func (m *Metrics) Ends(ends func() []expiry.End) {
	m.Registry.MustRegister(endings{ends, prometheus.NewDesc("gl_k8s_integrator_expires_timestamp_seconds",
		"When a certificate or token stops working, by the key of the configuration that names it; client certificate of kube-apiserver: what it shows to the webhooks. Of a chain the first certificate counts, of a bundle of CAs the last. A token is not shown if it has no end, or GitLab tells none.",
		[]string{"what"}, nil)})
}

type endings struct {
	ends func() []expiry.End
	desc *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (e endings) Describe(out chan<- *prometheus.Desc) { out <- e.desc }

// Collect implements prometheus.Collector.
func (e endings) Collect(out chan<- prometheus.Metric) {
	for _, end := range e.ends() {
		out <- prometheus.MustNewConstMetric(e.desc, prometheus.GaugeValue, float64(end.At.Unix()), end.What)
	}
}

// Build is the number that tells which program this is.
func Build(version string) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "gl_k8s_integrator", Name: "build_info", Help: "1, with the version of the program and of the Go that it was built with.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()},
	}, func() float64 { return 1 })
}

// Configured adds durations of the configuration that alerts compare others with, by their keys; they are asked for each time.
func (m *Metrics) Configured(durations func() map[string]time.Duration) {
	m.Registry.MustRegister(configured{durations, prometheus.NewDesc("gl_k8s_integrator_configured_seconds",
		"Durations of the configuration that alerts compare others with, by key.", []string{"key"}, nil)})
}

type configured struct {
	durations func() map[string]time.Duration
	desc      *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c configured) Describe(out chan<- *prometheus.Desc) { out <- c.desc }

// Collect implements prometheus.Collector.
func (c configured) Collect(out chan<- prometheus.Metric) {
	for key, d := range c.durations() {
		out <- prometheus.MustNewConstMetric(c.desc, prometheus.GaugeValue, d.Seconds(), key)
	}
}
