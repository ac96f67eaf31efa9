package gitlab

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"

	"github.com/gl-k8s-integrator/gl-k8s-integrator/authz"
)

type pageInfo struct {
	HasNextPage bool   `json:"hasNextPage"`
	EndCursor   string `json:"endCursor"`
}

// UnmarshalJSON refuses an answer that does not say whether there is a next page: it is not the last one for that.
func (p *pageInfo) UnmarshalJSON(b []byte) error {
	var in struct {
		HasNextPage *bool  `json:"hasNextPage"`
		EndCursor   string `json:"endCursor"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return err
	}
	if in.HasNextPage == nil {
		return errors.New("pageInfo without hasNextPage")
	}
	p.HasNextPage, p.EndCursor = *in.HasNextPage, in.EndCursor
	return nil
}

type gqlUser struct {
	ID        string     `json:"id"`
	Username  string     `json:"username"`
	Name      string     `json:"name"`
	State     string     `json:"state"`
	Human     *bool      `json:"human"`
	Type      string     `json:"type"`
	Bot       *bool      `json:"bot"`
	CreatedAt *time.Time `json:"createdAt"`
}

type gqlMembers struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*struct {
		ExpiresAt   string `json:"expiresAt"`
		AccessLevel *struct {
			IntegerValue *int `json:"integerValue"`
		} `json:"accessLevel"`
		User *gqlUser `json:"user"`
	} `json:"nodes"`
}

type gqlShared struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*struct {
		ID string `json:"id"`
	} `json:"nodes"`
}

type gqlSource struct { // a Group or a Project
	ID        string     `json:"id"`
	FullPath  string     `json:"fullPath"`
	CreatedAt *time.Time `json:"createdAt"`
	UpdatedAt string     `json:"updatedAt"`
	Archived  bool       `json:"archived"`
	Marked    bool       `json:"markedForDeletion"`
	MarkedOn  string     `json:"markedForDeletionOn"`
	ShareLock bool       `json:"shareWithGroupLock"`
	Parent    *struct {
		ID string `json:"id"`
	} `json:"parent"`
	Shared         *gqlShared    `json:"sharedGroups"`
	GroupMembers   *gqlMembers   `json:"groupMembers"`
	ProjectMembers *gqlMembers   `json:"projectMembers"`
	Variables      *gqlVariables `json:"ciVariables"`
}

type gqlPage[T any] struct {
	PageInfo *pageInfo `json:"pageInfo"`
	Nodes    []*T      `json:"nodes"`
}

var gidPattern = regexp.MustCompile(`^gid://gitlab/(Group|Project|User)/([1-9][0-9]{0,18})$`)

// gid reads a global id of the given type.
func gid(s, typ string) (int64, error) {
	m := gidPattern.FindStringSubmatch(s)
	if m == nil || m[1] != typ {
		return 0, fmt.Errorf("id %q: want gid://gitlab/%s/NUMBER", shorten(s), typ)
	}
	return strconv.ParseInt(m[2], 10, 64)
}

func (u gqlUser) user() (authz.User, error) {
	id, err := gid(u.ID, "User")
	if err != nil {
		return authz.User{}, err
	}
	if u.State == "" || u.Username == "" { // who is not active has no rights: nobody is that by half an answer
		return authz.User{}, fmt.Errorf("user %d has no state or no username in the answer", id)
	}
	if u.Human == nil && u.Type == "" && u.Bot == nil {
		return authz.User{}, fmt.Errorf("the answer does not say whether user %d is a person", id)
	}
	human := (u.Human != nil && *u.Human) || u.Type == "HUMAN" || (u.Bot != nil && !*u.Bot)
	return authz.User{ID: id, Username: u.Username, Name: u.Name, State: authz.UserState(u.State), Human: human, CreatedAt: seconds(u.CreatedAt)}, nil
}

// rows turns nodes into rows. A row without user is a pending invitation by e-mail.
func (m *gqlMembers) rows() ([]memberRow, error) {
	if m == nil || m.Nodes == nil || m.PageInfo == nil {
		return nil, errors.New("the members are null: GitLab did not let us see them")
	}
	out := make([]memberRow, 0, len(m.Nodes))
	for _, n := range m.Nodes {
		if n == nil || (n.User != nil && (n.AccessLevel == nil || n.AccessLevel.IntegerValue == nil)) {
			return nil, errors.New("a membership row is null or without level")
		}
		if n.User == nil {
			continue
		}
		u, err := n.User.user()
		if err != nil {
			return nil, err
		}
		row, ok, err := member(u.ID, *n.AccessLevel.IntegerValue, n.ExpiresAt)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, memberRow{Member: row, user: u})
		}
	}
	return out, nil
}

// decodeNodes decodes a connection and refuses null where an object must be.
func decodeNodes[T any](raw json.RawMessage) (*gqlPage[T], error) {
	var page *gqlPage[T]
	if len(raw) == 0 {
		return nil, errors.New("the answer lacks what was asked for")
	}
	if err := json.Unmarshal(raw, &page); err != nil {
		return nil, fmt.Errorf("decoding a page: %w", err)
	}
	if page == nil || page.Nodes == nil {
		return nil, errors.New("a whole page is null")
	}
	for _, n := range page.Nodes {
		if n == nil {
			return nil, errors.New("an object of the page is null: GitLab did not let us see it")
		}
	}
	return page, nil
}

// decodePage is decodeNodes for a page of a list, which must say whether it is the last one.
func decodePage[T any](raw json.RawMessage) (*gqlPage[T], error) {
	page, err := decodeNodes[T](raw)
	if err != nil {
		return nil, err
	}
	if page.PageInfo == nil {
		return nil, errors.New("the answer does not say whether there is a next page")
	}
	if page.PageInfo.HasNextPage && page.PageInfo.EndCursor == "" {
		return nil, errors.New("there is a next page but no cursor for it")
	}
	return page, nil
}

type gqlVariables struct {
	PageInfo pageInfo `json:"pageInfo"`
	Nodes    []*struct {
		Key         string `json:"key"`
		Scope       string `json:"environmentScope"`
		Description string `json:"description"`
		Type        string `json:"variableType"`
		Masked      bool   `json:"masked"`
		Protected   bool   `json:"protected"`
		Raw         bool   `json:"raw"`
		Hidden      bool   `json:"hidden"`
	} `json:"nodes"`
}
