package metrics

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

// findings shows how many findings there are of each code. They change as a whole: a scrape meanwhile must not see one gone that is
// there before and after, as it could with a vector of gauges that is reset and filled again.
type findings struct {
	desc   *prometheus.Desc
	byCode atomic.Pointer[map[string]int] // nil: none
}

func newFindings(ns string) *findings {
	return &findings{desc: prometheus.NewDesc(ns+"_findings", "Findings of the last round by code.", []string{"code"}, nil)}
}

// replace shows these instead of those before.
func (f *findings) replace(all []authz.Finding) {
	byCode := map[string]int{}
	for _, one := range all {
		byCode[one.Code]++
	}
	f.byCode.Store(&byCode)
}

// Describe implements prometheus.Collector.
func (f *findings) Describe(out chan<- *prometheus.Desc) { out <- f.desc }

// Collect implements prometheus.Collector.
func (f *findings) Collect(out chan<- prometheus.Metric) {
	byCode := f.byCode.Load()
	if byCode == nil {
		return
	}
	for code, n := range *byCode {
		out <- prometheus.MustNewConstMetric(f.desc, prometheus.GaugeValue, float64(n), code)
	}
}
