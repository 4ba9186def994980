def page(records, order):
    return ""
