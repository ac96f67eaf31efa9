package web

import (
	"errors"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/people"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/webapi"
)

func (s ownPages) whyRoutes() []route {
	return []route{{method: http.MethodGet, path: "/why", access: signedIn, nav: "why.nav", handle: s.why}}
}

// whatFor is a thing that people want to do, with the verb of Kubernetes and the subresource that it takes. The text is why.verb.KEY.
type whatFor struct{ Key, verb, sub string }

// uses are offered in this order.
var uses = []whatFor{
	{"get", "get", ""},
	{"list", "list", ""},
	{"watch", "watch", ""},
	{"create", "create", ""},
	{"update", "update", ""},
	{"patch", "patch", ""},
	{"delete", "delete", ""},
	{"logs", "get", "log"},
	{"exec", "create", "exec"},
	{"port-forward", "create", "portforward"},
	{"scale", "patch", "scale"},
}

// kinds are the API groups of Kubernetes' own resources, by plural. Source: kubectl api-resources of Kubernetes 1.37.
var kinds = map[string]string{
	"bindings": "", "configmaps": "", "endpoints": "", "events": "", "limitranges": "", "namespaces": "", "nodes": "", "persistentvolumeclaims": "", "persistentvolumes": "",
	"pods": "", "podtemplates": "", "replicationcontrollers": "", "resourcequotas": "", "secrets": "", "serviceaccounts": "", "services": "",
	"controllerrevisions": "apps", "daemonsets": "apps", "deployments": "apps", "replicasets": "apps", "statefulsets": "apps",
	"cronjobs": "batch", "jobs": "batch", "horizontalpodautoscalers": "autoscaling", "poddisruptionbudgets": "policy",
	"ingresses": "networking.k8s.io", "ingressclasses": "networking.k8s.io", "networkpolicies": "networking.k8s.io", "endpointslices": "discovery.k8s.io",
	"leases": "coordination.k8s.io", "storageclasses": "storage.k8s.io", "priorityclasses": "scheduling.k8s.io",
	"roles": "rbac.authorization.k8s.io", "rolebindings": "rbac.authorization.k8s.io", "clusterroles": "rbac.authorization.k8s.io", "clusterrolebindings": "rbac.authorization.k8s.io",
	"customresourcedefinitions": "apiextensions.k8s.io",
}

// shortKinds are kubectl's short names.
var shortKinds = map[string]string{
	"cm": "configmaps", "ep": "endpoints", "ev": "events", "limits": "limitranges", "ns": "namespaces", "no": "nodes", "pvc": "persistentvolumeclaims",
	"pv": "persistentvolumes", "po": "pods", "rc": "replicationcontrollers", "quota": "resourcequotas", "sa": "serviceaccounts", "svc": "services", "ds": "daemonsets",
	"deploy": "deployments", "rs": "replicasets", "sts": "statefulsets", "cj": "cronjobs", "hpa": "horizontalpodautoscalers", "pdb": "poddisruptionbudgets",
	"ing": "ingresses", "netpol": "networkpolicies", "sc": "storageclasses", "crd": "customresourcedefinitions",
}

// asked is a question as people put it.
type asked struct{ Namespace, Verb, Resource string }

func askedBy(q url.Values) asked {
	field := func(name string) string { return short(strings.TrimSpace(q.Get(name))) }
	return asked{Namespace: field("namespace"), Verb: strings.ToLower(field("verb")), Resource: strings.ToLower(field("resource"))}
}

// question puts it in Kubernetes' words: "deploy" and "deployments.apps" are the same, "pods/log" has a subresource. It is false
// where something is missing.
func (a asked) question() (authz.Question, bool) {
	q := authz.Question{Namespace: a.Namespace, Verb: a.Verb}
	name, sub, _ := strings.Cut(a.Resource, "/")
	q.Subresource = sub
	if i := slices.IndexFunc(uses, func(w whatFor) bool { return w.Key == a.Verb }); i >= 0 {
		q.Verb = uses[i].verb
		if q.Subresource == "" {
			q.Subresource = uses[i].sub
		}
	}
	name, group, named := strings.Cut(name, ".")
	if plural, ok := shortKinds[name]; ok && !named {
		name = plural
	}
	for _, ending := range []string{"", "s", "es"} {
		if own, ok := kinds[name+ending]; ok && !named {
			name, group = name+ending, own
			break
		}
	}
	if strings.HasSuffix(name, "y") && !named { // networkpolicy
		if own, ok := kinds[strings.TrimSuffix(name, "y")+"ies"]; ok {
			name, group = strings.TrimSuffix(name, "y")+"ies", own
		}
	}
	q.Resource, q.Group = name, group
	return q, q.Verb != "" && q.Resource != ""
}

// refusal is how kube-apiserver refuses (k8s.io/apiserver, responsewriters/errors.go).
var refusal = regexp.MustCompile(`cannot ([a-z]+) resource "([^"\s/]+)(/[^"\s]+)?" in API group "([^"\s]*)"(?: in the namespace "([^"\s]+)")?`)

// fromMessage reads the question out of an error of kubectl.
func fromMessage(text string) (asked, bool) {
	m := refusal.FindStringSubmatch(text)
	if m == nil {
		return asked{}, false
	}
	resource := m[2]
	if m[4] != "" {
		resource += "." + m[4]
	}
	return asked{Namespace: short(m[5]), Verb: m[1], Resource: short(resource + m[3])}, true
}

// whyData is what why.html shows.
type whyData struct {
	asked
	Message string // that was pasted
	Verbs   []whatFor
	Own     []string // some of their namespaces
	Request string   // in kubectl's words; "": nothing was asked
	Answer  webapi.Can
	Odd     bool // the message says nothing that can be asked
	Login   bool // it is about a login
}

// maxMessage is how much of an error is read.
const maxMessage = 2000

func (s ownPages) why(w http.ResponseWriter, r *http.Request, v *visit) {
	query := r.URL.Query()
	d := whyData{asked: askedBy(query), Message: strings.TrimSpace(query.Get("message")), Verbs: uses}
	if len(d.Message) > maxMessage {
		d.Message = strings.ToValidUTF8(d.Message[:maxMessage], "")
	}
	if d.Message != "" {
		var ok bool
		read, ok := fromMessage(d.Message)
		d.Login = strings.Contains(d.Message, "must be logged in") || strings.Contains(d.Message, "Unauthorized")
		d.Odd = !ok && !d.Login
		if ok {
			d.asked = read
		}
	}
	mine, err := s.o.People.Namespaces(v.session.User, people.Filter{Limit: 100})
	if err != nil && !errors.Is(err, people.ErrUnread) {
		s.broken(w, r, v, err)
		return
	}
	for _, n := range mine.Namespaces {
		d.Own = append(d.Own, n.Name)
	}
	if q, ok := d.question(); ok && !d.Odd && !d.Login {
		if d.Answer, err = s.o.People.Can(v.session.User, q); err != nil {
			s.broken(w, r, v, err)
			return
		}
		d.Request = requestText(q)
	}
	s.page(w, r, v, "why", d)
}

// requestText is how kubectl auth can-i takes a question.
func requestText(q authz.Question) string {
	resource := q.Resource
	if q.Group != "" {
		resource += "." + q.Group
	}
	if q.Subresource != "" {
		resource += "/" + q.Subresource
	}
	text := q.Verb + " " + resource
	if q.Namespace != "" {
		text += " -n " + q.Namespace
	}
	return text
}
