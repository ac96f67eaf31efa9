package gitlab

import (
	"context"
	"errors"
	"fmt"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// ErrTooOld says that GitLab is older than the oldest supported version. Nothing is read from it, nor written.
var ErrTooOld = errors.New("this GitLab is too old")

// supported judges what GitLab tells as its version. One that can't be understood is the zero Version, taken for the newest.
func supported(text string) (gitlabversion.Version, error) {
	v, ok := gitlabversion.Parse(text)
	if ok && v.Before(gitlabversion.Oldest) {
		return v, fmt.Errorf("%w: it says that it is %s; GitLab %s or newer is needed: upgrade GitLab", ErrTooOld, shorten(text), gitlabversion.Oldest)
	}
	return v, nil
}

// version asks by REST, which every GitLab answers to every user.
func (a *api) version(ctx context.Context) (string, error) {
	var out struct {
		Version string `json:"version"`
	}
	_, err := a.get(ctx, "version", nil, &out)
	return out.Version, err
}

// Version returns which GitLab this is: the zero Version, which stands for the newest, if it does not tell. The error may be
// ErrTooOld.
func (w *Variables) Version(ctx context.Context) (gitlabversion.Version, error) {
	text, err := w.api.version(ctx)
	if err != nil {
		return gitlabversion.Version{}, err
	}
	return supported(text)
}

// Supported returns ErrTooOld if this GitLab is. One that does not tell its version is taken for a new one.
func (r *HookRegistrar) Supported(ctx context.Context) error {
	text, err := r.api.version(ctx)
	if err != nil {
		return nil //nolint:nilerr // what follows fails for the same reason and says it better
	}
	_, err = supported(text)
	return err
}
