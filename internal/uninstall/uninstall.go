package uninstall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
)

// Step is a part of the way out.
type Step struct {
	Name string
	// Left returns what there is to remove, each in words for people.
	Left func(context.Context) ([]string, error)
	// Remove removes all that Left returns, as far as it can.
	Remove func(context.Context) error
}

// maxShown is how many things of a step are named one by one.
const maxShown = 20

// Run shows what each step would remove and, if confirm is set, removes it: a step is begun when nothing is left of those before
// it. An error says where it ended; the next call goes on there. It returns how many things there were.
func Run(ctx context.Context, steps []Step, confirm bool, out io.Writer) (found int, err error) {
	for i, s := range steps {
		left, err := s.Left(ctx)
		if err != nil {
			return found, fmt.Errorf("step %d of %d, looking for %s: %w", i+1, len(steps), s.Name, err)
		}
		found += len(left)
		fmt.Fprintf(out, "%d/%d %s: %d\n", i+1, len(steps), s.Name, len(left))
		for _, what := range left[:min(len(left), maxShown)] {
			fmt.Fprintf(out, "    - %s\n", what)
		}
		if more := len(left) - maxShown; more > 0 {
			fmt.Fprintf(out, "    … and %d more\n", more)
		}
		if !confirm || len(left) == 0 {
			continue
		}
		err = s.Remove(ctx)
		still, lookErr := s.Left(ctx)
		if err = errors.Join(err, lookErr); err == nil && len(still) > 0 {
			err = fmt.Errorf("still there: %s", strings.Join(still[:min(len(still), 3)], "; "))
		}
		if err != nil {
			return found, fmt.Errorf("step %d of %d, removing %s: %w: nothing of a later step was touched; call it again when that is mended", i+1, len(steps), s.Name, err)
		}
		fmt.Fprintln(out, "    removed")
	}
	return found, nil
}

// NobodyLeads returns an error while a `serve` leads: it would put everything back.
func NobodyLeads(ctx context.Context, kube kubernetes.Interface, now time.Time) error {
	l, err := kube.CoordinationV1().Leases(deploy.Namespace).Get(ctx, store.NameLease, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("looking whether an integrator runs: %w", err)
	}
	s := l.Spec
	if s.HolderIdentity == nil || *s.HolderIdentity == "" || s.RenewTime == nil || s.LeaseDurationSeconds == nil {
		return nil
	}
	if until := s.RenewTime.Add(time.Duration(*s.LeaseDurationSeconds) * time.Second); now.Before(until) {
		return fmt.Errorf("%s leads, and would put back what is removed: stop every `serve` first", *s.HolderIdentity)
	}
	return nil
}
