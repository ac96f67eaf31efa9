module github.com/gl-k8s-integrator/gl-k8s-integrator/internal/chart/crds

go 1.26.0

require (
	github.com/cert-manager/cert-manager v1.21.2
	github.com/prometheus-operator/prometheus-operator v0.85.0
)
