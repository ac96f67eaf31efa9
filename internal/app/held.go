package app

import (
	"context"
	"errors"
	"fmt"
	"io"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/deploy"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/config"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/kubeerror"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/store"
	"github.com/gl-k8s-integrator/gl-k8s-integrator/rbacsync"
)

func heldStore(c *clients) store.Held {
	return store.Held{Client: c.kube, Namespace: deploy.Namespace}
}

// Held prints what the running integrator holds back, and returns how many changes that are.
func Held(ctx context.Context, cfg *config.Config, out io.Writer) (int, error) {
	c, err := connect(cfg)
	if err != nil {
		return 0, err
	}
	items, err := heldStore(c).Load(ctx)
	if err != nil {
		return 0, kubeerror.Explain(err)
	}
	_, err = io.WriteString(out, rbacsync.HeldText(items))
	return len(items), err
}

// Approve approves what is held under a hash that Held printed.
func Approve(ctx context.Context, cfg *config.Config, hash string, out io.Writer) error {
	c, err := connect(cfg)
	if err != nil {
		return err
	}
	items, err := heldStore(c).Approve(ctx, hash, ownName(ctx, c))
	word := "approved"
	if errors.Is(err, store.ErrApproved) {
		word, err = "approved already", nil
	}
	if err != nil {
		return kubeerror.Explain(err)
	}
	_, err = fmt.Fprintf(out, "%s: %d changes; the next round makes them\n", word, rbacsync.Count(items))
	return err
}

// ownName returns the name by which kube-apiserver knows whoever runs a command; "" where it does not tell.
func ownName(ctx context.Context, c *clients) string {
	r, err := c.kube.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return ""
	}
	return rbacsync.Printable(r.Status.UserInfo.Username)
}
