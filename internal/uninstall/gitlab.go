package uninstall

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/client-go/kubernetes"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlab"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubename"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync/ci"
)

// Credentials takes back what CI jobs were given: the tokens die, and the variables and integrations go out of GitLab.
func Credentials(kube kubernetes.Interface, p *ci.Provisioner) Step {
	return Step{
		Name: "CI tokens, and what projects in GitLab were given",
		Left: func(ctx context.Context) (left []string, err error) {
			list, err := withCredentials(ctx, kube)
			for _, n := range list {
				left = append(left, "namespace "+n.Name)
			}
			return left, err
		},
		Remove: func(ctx context.Context) error {
			list, err := withCredentials(ctx, kube)
			if err != nil {
				return err
			}
			var gone []ci.Namespace
			for _, n := range list {
				source, _ := authz.ParseLabel(n.Labels[kubename.LabelSource])
				gone = append(gone, ci.Namespace{Name: n.Name, Source: source, Gone: true, Exists: true})
			}
			var errs []error
			for _, f := range p.Provision(ctx, gone).Findings {
				errs = append(errs, fmt.Errorf("%s: %s", f.Code, f.Text))
			}
			return errors.Join(errs...)
		},
	}
}

// Hooks removes the system hooks of this cluster.
func Hooks(r *gitlab.HookRegistrar, claim gitlab.Claim) Step {
	list := func(ctx context.Context) (own []gitlab.SystemHook, err error) {
		all, err := r.Others(ctx, "", claim)
		for _, h := range all {
			if !h.Other && h.Cluster != "" {
				own = append(own, h)
			}
		}
		return own, err
	}
	return Step{
		Name: "system hooks in GitLab",
		Left: func(ctx context.Context) (left []string, err error) {
			own, err := list(ctx)
			for _, h := range own {
				left = append(left, fmt.Sprintf("hook %d to %s", h.ID, h.URL))
			}
			return left, err
		},
		Remove: func(ctx context.Context) error {
			own, err := list(ctx)
			errs := []error{err}
			for _, h := range own {
				errs = append(errs, r.Remove(ctx, h.ID))
			}
			return errors.Join(errs...)
		},
	}
}
