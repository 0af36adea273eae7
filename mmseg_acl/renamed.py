"""What had another name before: keys of configs, types, logged losses. One word a thing since then.

Errors read it to name what a user of an older config means, and stored runs are migrated by it.
"""

# By the class that takes the argument: its old name and the present one.
RENAMED_KEYS: dict[str, dict[str, str]] = {
    'ACLNet': {
        'lambda_con': 'consistency_weight',
        'lambda_tra': 'contrast_weight',
        'lambda_aff': 'affinity_weight',
    },
    'CAC': {'lambda_con': 'contrast_weight'},
    'ELN': {'pseudo_weight': 'consistency_weight'},
    'PSMT': {'unsup_weight': 'consistency_weight'},
    'U2PL': {'lambda_con': 'consistency_weight', 'lambda_contrast': 'contrast_weight'},
}

# What a config names by `type`.
RENAMED_TYPES: dict[str, str] = {
    'MultiBranchSegDataPreprocessor': 'MultiViewSegDataPreprocessor',
    'branch_collate': 'view_collate',
}

# By the class that logs them: losses in `scalars.json` and in the tables and pictures made of it.
RENAMED_SCALARS: dict[str, dict[str, str]] = {
    'ACLNet': {
        'loss_con': 'loss_consistency',
        'loss_tra': 'loss_contrast',
        'loss_aff': 'loss_affinity',
    },
    'AEL': {'loss_con': 'loss_consistency', 'loss_con_sup': 'loss_consistency_labelled'},
    'CAC': {'loss_con': 'loss_contrast'},
    'CAFD': {'loss_con': 'loss_consistency'},
    'ELN': {'loss_weak': 'loss_consistency_weak', 'loss_strong': 'loss_consistency_strong'},
    'MeanTeacher': {'loss_con': 'loss_consistency'},
    'PSMT': {'loss_con': 'loss_consistency'},
    'U2PL': {'loss_con': 'loss_consistency'},
}
