package cluster

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

// LeftFinder looks for what was left behind. It is used by one goroutine at a time.
type LeftFinder struct {
	kube       kubernetes.Interface
	now        func() time.Time
	namespaces map[string]looked
}

// looked is what is known of a namespace with a loss.
type looked struct {
	loss    time.Time
	at      time.Time // zero: never
	clean   bool      // nothing was left, and nothing can be any more
	unread  bool      // the last look has failed
	finding *authz.Finding
}

// NewLeftFinder returns one that has looked at nothing yet.
func NewLeftFinder(kube kubernetes.Interface, now func() time.Time) *LeftFinder {
	return &LeftFinder{kube: kube, now: now}
}

// Look returns what was left behind in these namespaces. It looks where it has not looked since the loss, and with all
// everywhere: a look costs a request or more, and losses come in bursts. Those that were looked at longest ago come first; what
// there is no time for keeps its last answer.
func (k *LeftFinder) Look(ctx context.Context, namespaces map[string]rbacsync.LostNamespace, all bool) []authz.Finding {
	ctx, cancel := context.WithTimeout(ctx, rbacsync.LookFor)
	defer cancel()
	var due []string
	known := make(map[string]looked, len(namespaces))
	for ns, s := range namespaces {
		old := k.namespaces[ns]
		if !old.loss.Equal(s.Loss.At) {
			old = looked{loss: s.Loss.At}
		}
		if known[ns] = old; !old.clean && (all || old.at.IsZero() || old.unread) {
			due = append(due, ns)
		}
	}
	k.namespaces = known
	slices.SortFunc(due, func(a, b string) int {
		return cmp.Or(known[a].at.Compare(known[b].at), known[b].loss.Compare(known[a].loss), strings.Compare(a, b))
	})
	unread, first := 0, ""
	for _, ns := range due[:min(len(due), rbacsync.MaxLeft)] {
		s, l := namespaces[ns], known[ns]
		l.at = k.now()
		found, err := k.read(ctx, &s)
		if err == nil || found != nil {
			l.finding = found
		}
		if l.unread = err != nil; l.unread {
			if unread++; first == "" {
				first = err.Error()
			}
		}
		l.clean = err == nil && found == nil && l.at.After(l.loss.Add(rbacsync.LeftAfter))
		known[ns] = l
		if ctx.Err() != nil {
			break
		}
	}
	var out []authz.Finding
	for _, ns := range slices.Sorted(maps.Keys(known)) {
		if f := known[ns].finding; f != nil {
			out = append(out, *f)
		}
	}
	if more := len(out) - maxExcess; more > 0 {
		out = append(out[:maxExcess], authz.Finding{Code: "left_behind", Text: fmt.Sprintf("and something is left in %d more namespaces", more)})
	}
	if unread > 0 {
		out = append(out, authz.Finding{Code: "left_behind", Text: fmt.Sprintf(
			"in %d namespaces where somebody lost the right to change things it could not be seen what they left; the first: %s; if that is forbidden, apply deploy/manifests again", unread, first)})
	}
	return out
}

// read looks at one namespace. With an error, the finding has what could be read.
func (k *LeftFinder) read(ctx context.Context, s *rbacsync.LostNamespace) (*authz.Finding, error) {
	list, err := k.kube.RbacV1().RoleBindings(s.Name).List(ctx, metav1.ListOptions{LabelSelector: notOurs, Limit: pageSize})
	if err != nil {
		return nil, fmt.Errorf("listing role bindings in %s: %w", s.Name, err)
	}
	var pods []corev1.Pod
	accounts := s.Accounts(list.Items)
	for _, account := range accounts[:min(len(accounts), rbacsync.MaxNamed+1)] {
		some, err := k.kube.CoreV1().Pods(s.Name).List(ctx, metav1.ListOptions{FieldSelector: "spec.serviceAccountName=" + account, Limit: 100})
		if err != nil {
			return rbacsync.LeftBehind(s, list.Items, pods), fmt.Errorf("listing pods in %s: %w", s.Name, err)
		}
		for i := range some.Items {
			if some.Items[i].Spec.ServiceAccountName == account {
				pods = append(pods, some.Items[i])
			}
		}
	}
	return rbacsync.LeftBehind(s, list.Items, pods), nil
}
