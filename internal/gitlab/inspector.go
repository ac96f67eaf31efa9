package gitlab

import (
	"context"
	"net/url"
	"strings"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/internal/gitlabversion"
)

// Inspector asks GitLab about what belongs to the integrator itself: a token, the system hooks, the OAuth applications. It
// writes nothing.
type Inspector struct{ api *api }

// NewInspector returns an Inspector. It does no request.
func NewInspector(o Options) (*Inspector, error) {
	a, err := newAPI(o)
	if err != nil {
		return nil, err
	}
	return &Inspector{api: a}, nil
}

// TokenState is what GitLab says of the token that it is asked with.
type TokenState struct {
	Username string
	Admin    bool
	Scopes   []string
	Ends     time.Time // the day at whose beginning (UTC) it is over; zero: never
}

// Token returns the state of the token. Source: https://docs.gitlab.com/api/personal_access_tokens/.
func (i *Inspector) Token(ctx context.Context) (TokenState, error) {
	var said struct {
		Scopes    []string `json:"scopes"`
		ExpiresAt string   `json:"expires_at"`
	}
	if _, err := i.api.get(ctx, "personal_access_tokens/self", nil, &said); err != nil {
		return TokenState{}, err
	}
	me, _, err := i.api.self(ctx)
	if err != nil {
		return TokenState{Scopes: said.Scopes}, err
	}
	out := TokenState{Username: me.Username, Admin: me.IsAdmin != nil && *me.IsAdmin, Scopes: said.Scopes}
	out.Ends, _ = time.Parse(time.DateOnly, said.ExpiresAt) // null: never
	return out, nil
}

// Version returns which GitLab this is, as it says and as a number. The number is zero if it is not known.
func (i *Inspector) Version(ctx context.Context) (string, gitlabversion.Version, error) {
	text, err := i.api.version(ctx)
	v, _ := gitlabversion.Parse(text)
	return shorten(text), v, err
}

// HookState is a system hook that looks like an integrator's, and how it is set.
type HookState struct {
	SystemHook
	Named        bool // its name says that an integrator made it
	Verify       bool // GitLab verifies the certificate
	Noise        bool // it sends events that say nothing about rights
	Alert        string
	Secret, Sign *bool // whether GitLab has a secret token, a signing token for it; nil: this version does not tell
}

// Hooks returns the system hooks that integrators made, as far as can be told by name and path. It needs an administrator's
// token with the scope api. Source: https://docs.gitlab.com/api/system_hooks/.
func (i *Inspector) Hooks(ctx context.Context, claim Claim) ([]HookState, error) {
	rows, err := offset[hookRow](ctx, i.api, "hooks", url.Values{})
	if err != nil {
		return nil, err
	}
	var out []HookState
	for _, r := range rows {
		if h, ok := claim.hook(r.restHook); ok {
			out = append(out, HookState{
				SystemHook: h, Named: strings.HasPrefix(r.Name, hookName), Verify: r.Verify,
				Noise: r.Push || r.TagPush || r.MergeRequests || r.RepositoryUpdate,
				Alert: r.Alert, Secret: r.Secret, Sign: r.Sign,
			})
		}
	}
	return out, nil
}

type hookRow struct {
	restHook
	Verify           bool   `json:"enable_ssl_verification"`
	Push             bool   `json:"push_events"`
	TagPush          bool   `json:"tag_push_events"`
	MergeRequests    bool   `json:"merge_requests_events"`
	RepositoryUpdate bool   `json:"repository_update_events"`
	Alert            string `json:"alert_status"`
	Secret           *bool  `json:"token_present"`
	Sign             *bool  `json:"signing_token_present"`
}

// Application is an OAuth application of the whole GitLab.
type Application struct {
	ClientID     string
	Confidential bool
	RedirectURIs []string
	Scopes       []string // nil: this version does not tell
}

// Applications returns those that an administrator made for the whole GitLab; those of users and groups are not listed.
// Source: https://docs.gitlab.com/api/applications/.
func (i *Inspector) Applications(ctx context.Context) ([]Application, error) {
	rows, err := offset[applicationRow](ctx, i.api, "applications", url.Values{})
	if err != nil {
		return nil, err
	}
	out := make([]Application, 0, len(rows))
	for _, r := range rows {
		out = append(out, Application{ClientID: r.ClientID, Confidential: r.Confidential, RedirectURIs: strings.Fields(r.CallbackURL), Scopes: r.Scopes})
	}
	return out, nil
}

type applicationRow struct {
	ID           int64    `json:"id"`
	ClientID     string   `json:"application_id"`
	CallbackURL  string   `json:"callback_url"` // one on each line
	Confidential bool     `json:"confidential"`
	Scopes       []string `json:"scopes"`
}

func (r applicationRow) id() (int64, error) { return positive(r.ID) }
