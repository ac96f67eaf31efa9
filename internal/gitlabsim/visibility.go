package gitlabsim

func (v *View) sees(u *User, visibility string) bool {
	switch visibility {
	case Public:
		return true
	case Internal:
		return u != nil && !u.External
	}
	return false
}

// canReadGroup: members of the group, and members of something below it, see a private group.
func (v *View) canReadGroup(u *User, g *Group) bool {
	if u != nil && u.Admin || v.sees(u, g.Visibility) {
		return true
	}
	return u != nil && v.belongs(u.ID, g)
}

func (v *View) belongs(userID int64, g *Group) bool {
	if v.GroupLevel(g.ID, userID) > NoAccess {
		return true
	}
	for _, p := range v.ProjectsOf(g.ID) {
		if v.projectLevel(p, userID) > NoAccess {
			return true
		}
	}
	for _, sub := range v.Subgroups(g.ID) {
		if v.belongs(userID, sub) {
			return true
		}
	}
	return false
}

func (v *View) canReadProject(u *User, p *Project) bool {
	if u != nil && u.Admin || v.sees(u, p.Visibility) {
		return true
	}
	return u != nil && v.projectLevel(p, u.ID) >= Guest
}
