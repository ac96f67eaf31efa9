package authz

import (
	_ "embed"
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// A name of a namespace has power beyond RBAC. In a pod's search path (resolv.conf: "svc.cluster.local", ndots:5) the
// lookup of github.com is first one of the Service "github" in a namespace "com", and with a namespace "svc" every
// NAME.NAMESPACE.svc is (https://kubernetes.io/docs/concepts/services-networking/dns-pod-service/). And policies,
// network rules and charts trust the namespaces of a cluster's software by their names.

// topLevelDomains has one name a line, in ASCII, after a line with its origin and date. It is made from
// golang.org/x/net/publicsuffix: go test ./authz -run TopLevelDomains -update.
//
//go:embed tlds.txt
var topLevelDomains string

const (
	whySystem = "it is one of Kubernetes or of this program"
	whyDNS    = "names outside the cluster end like it, and pods that look one up may reach a Service of this namespace instead"
	whyTool   = "it is usual for software that runs the cluster, which others trust by this name"
	whyConfig = "authz.reservedNames says so"
)

// reservedNames are those that are no top-level domains; "*" at the end matches any rest.
var reservedNames = []struct{ names, why string }{
	{"default kube-* kubernetes gl-k8s-integrator", whySystem},
	// Top-level domains in other scripts, also new ones; parts of the cluster's own DNS names; special-use names
	// (RFC 2606, 6761, 6762 appendix G, 7686, 8375, 9476); what is used as a top-level domain although it is none.
	{"xn--* svc pod cluster local arpa " +
		"alt example invalid localhost onion test " +
		"corp consul domain home intern internal intranet lan localdomain mail private", whyDNS},
	{"argo argo-cd argo-events argo-rollouts argo-workflows argocd " +
		"calico-apiserver calico-system cattle-* cert-manager cilium cilium-* cluster-autoscaler crossplane-system " +
		"dex elastic-system external-dns external-secrets falco fleet-default fleet-local flux-system " +
		"gatekeeper-system gitlab gitlab-agent-* gitlab-runner gmp-system grafana " +
		"harbor ingress ingress-nginx istio-* jaeger " +
		"karpenter keda keycloak knative-* kubernetes-dashboard kubevirt kyverno linkerd linkerd-* logging loki longhorn-system " +
		"metallb-system monitoring nginx-ingress nvidia-gpu-operator gpu-operator oauth2-proxy observability olm openebs openshift openshift-* " +
		"operators opentelemetry-operator-system projectcontour prometheus rook-ceph " +
		"sealed-secrets spire stackrox tekton-* tigera-operator traefik trivy-system vault velero", whyTool},
}

// fixedNames are reserved whatever the configuration says.
var fixedNames = newReservation()

// reservation is a set of reserved names; its methods don't change it.
type reservation struct {
	names    map[string]string // why, by name
	prefixes []string
	whys     []string // of prefixes
}

func newReservation() *reservation {
	r := &reservation{names: map[string]string{}}
	for _, group := range reservedNames {
		for name := range strings.FieldsSeq(group.names) {
			r.add(name, group.why)
		}
	}
	for line := range strings.Lines(topLevelDomains) {
		if name := strings.TrimSpace(line); !strings.HasPrefix(name, "#") {
			r.add(name, whyDNS)
		}
	}
	return r
}

// configured returns the names of a configuration alone; nothing else of the fixed ones is in it.
func configured(names []string) *reservation {
	r := &reservation{names: map[string]string{}}
	for _, n := range names {
		r.add(n, whyConfig)
	}
	return r
}

// add takes a name, normalised first, or a beginning of names with "*" at its end.
func (r *reservation) add(name, why string) {
	if prefix, open := strings.CutSuffix(name, "*"); open {
		// The dash at the end of "kube-*" must survive normalisation, which trims the ends.
		r.prefixes = append(r.prefixes, strings.TrimSuffix(NormalizePath(prefix+"x"), "x"))
		r.whys = append(r.whys, why)
		return
	}
	r.names[NormalizePath(name)] = why
}

// why returns why a name is reserved, or "".
func (r *reservation) why(name string) string {
	if why := r.names[name]; why != "" {
		return why
	}
	for i, p := range r.prefixes {
		if strings.HasPrefix(name, p) {
			return r.whys[i]
		}
	}
	return ""
}

// Reserved returns why a namespace of this name is given to nobody, whatever the configuration says, or "".
func Reserved(name string) string {
	if len(name) == 2 && isLetter(name[0]) && isLetter(name[1]) { // a country code, now or later
		return whyDNS
	}
	return fixedNames.why(name)
}

func isLetter(c byte) bool { return c >= 'a' && c <= 'z' }

// ReservedExpression returns the rule of Reserved in two parts, for where it has to be written in another language: the
// names that are reserved, sorted, and a regular expression (RE2) of further ones. No name matches both.
func ReservedExpression() (names []string, expression string) {
	forms := []string{"[a-z][a-z]"}
	for _, p := range fixedNames.prefixes {
		forms = append(forms, regexp.QuoteMeta(p)+".*")
	}
	expression = "^(" + strings.Join(forms, "|") + ")$"
	further := regexp.MustCompile(expression)
	for n := range fixedNames.names {
		if !further.MatchString(n) {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	return names, expression
}

// nameReserved is the finding about a namespace that has a reserved name already.
func nameReserved(id SourceID, name, why string) Finding {
	return Finding{"namespace_name_reserved", id, fmt.Sprintf(
		"namespace %q of %s keeps a name that is reserved now: %s. Move what runs in it and delete the namespace: %s then gets another one. To keep it, name both in rbacsync.adopt",
		name, id, why, id)}
}
