package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/logqueue"
)

// LogDrops are the numbers of log lines that were dropped, by level.
func LogDrops(drops func() logqueue.Drops) prometheus.Collector {
	return logDrops{drops, prometheus.NewDesc("gl_k8s_integrator_log_lines_dropped_total",
		"Log lines that were dropped because the log was not read or could not be written; warning: warnings and errors, info: the rest.", []string{"level"}, nil)}
}

type logDrops struct {
	drops func() logqueue.Drops
	desc  *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (l logDrops) Describe(out chan<- *prometheus.Desc) { out <- l.desc }

// Collect implements prometheus.Collector.
func (l logDrops) Collect(out chan<- prometheus.Metric) {
	d := l.drops()
	out <- prometheus.MustNewConstMetric(l.desc, prometheus.CounterValue, float64(d.Info), "info")
	out <- prometheus.MustNewConstMetric(l.desc, prometheus.CounterValue, float64(d.Warning), "warning")
}
