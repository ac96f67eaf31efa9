// Package chart holds the tests of the Helm chart in deploy/chart, with the real helm, which the nested module in helm/
// fixes the version of, and the real CRDs of cert-manager and the Prometheus operator, from the nested module in crds/. It
// has no code of its own.
package chart
